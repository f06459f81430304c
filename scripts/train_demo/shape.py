"""The demo model's shape: K2's architecture made small enough to ship."""

import math
from dataclasses import dataclass

from quant.errors import UnsupportedError


@dataclass(frozen=True)
class DemoShape:
    """Sizes of the demo model. Rows are 256 wide so that the 4-bit K types apply to them. All matrices are whole
    numbers of 128x128 blocks but one: `kv_lora_rank + rope_dim` rows leave a partial block, as K2's do.
    """

    vocab_size: int
    hidden: int = 256
    layers: int = 4
    dense_layers: int = 1
    dense_width: int = 512
    expert_width: int = 256
    experts: int = 32
    experts_per_token: int = 4
    routed_scaling: float = 2.0
    heads: int = 4
    nope_dim: int = 32
    rope_dim: int = 32
    value_dim: int = 64
    q_lora_rank: int = 256
    kv_lora_rank: int = 256
    rms_eps: float = 1e-6
    rope_theta: float = 50000.0
    yarn_factor: float = 4.0
    yarn_original_positions: int = 1024
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0

    def __post_init__(self) -> None:
        if self.layers in (26, 27):
            raise UnsupportedError(f"{self.layers} layers: llama.cpp takes such a model for one without q-LoRA")

    @property
    def qk_dim(self) -> int:
        return self.nope_dim + self.rope_dim

    @property
    def max_positions(self) -> int:
        return int(self.yarn_factor * self.yarn_original_positions)

    @property
    def softmax_scale(self) -> float:
        """1/sqrt(d) times YaRN's temperature squared, with mscale = mscale_all_dim = 1."""
        temperature = 0.1 * math.log(self.yarn_factor) + 1.0
        return self.qk_dim**-0.5 * temperature**2
