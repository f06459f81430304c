"""What a model is: every number that the forward pass and the file layout need, checked once.

`config_json` reads them from a checkpoint, `config_gguf` from a file. A value that asks for something that is not
implemented raises UnsupportedError with the field's name.
"""

import math
from dataclasses import dataclass
from typing import Literal

from quant.errors import UnsupportedError

MAX_LAYERS = 512
MAX_EXPERTS = 1024

Scoring = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension (arXiv 2309.00071), as `rope_scaling` describes it. It applies at every length."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    mscale_all_dim: float

    def __post_init__(self) -> None:
        rules = {
            "factor": (self.factor >= 1, "at least 1"),
            "original_context": (self.original_context >= 1, "at least 1"),
            # Rotations over the original context; published models have 1 and 32, and the logarithm needs a bound.
            "beta_fast": (1e-6 <= self.beta_fast <= 1e6, "between 1e-6 and 1e6"),
            "beta_slow": (1e-6 <= self.beta_slow <= 1e6, "between 1e-6 and 1e6"),
            "mscale_all_dim": (self.mscale_all_dim >= 0, "0 or more"),
        }
        for name, (valid, rule) in rules.items():
            value = getattr(self, name)
            if not (valid and math.isfinite(value)):
                raise UnsupportedError(f"the rope scaling's {name} is {value}, but must be finite and {rule}")


@dataclass(frozen=True)
class ModelConfig:
    """A DeepSeek-V2/V3 style decoder: multi-head latent attention, then a dense or a mixture-of-experts layer."""

    name: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_dense_layers: int
    n_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int
    dense_width: int
    expert_width: int
    n_experts: int
    experts_per_token: int
    n_shared_experts: int
    n_groups: int
    n_groups_used: int
    scoring: Scoring
    normalize_weights: bool
    routed_scale: float
    rms_eps: float
    rope_theta: float
    yarn: YarnConfig | None
    context_length: int
    tied_embeddings: bool = False

    # q_a and kv_a norms are built without an eps in the published model code, so theirs is the class default.
    lora_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in [
            "vocab_size",
            "hidden_size",
            "n_layers",
            "n_heads",
            "kv_lora_rank",
            "qk_nope_dim",
            "qk_rope_dim",
            "v_dim",
            "dense_width",
            "expert_width",
            "n_experts",
            "experts_per_token",
            "n_groups",
            "n_groups_used",
            "context_length",
        ]:
            if getattr(self, name) < 1:
                raise UnsupportedError(f"{name} is {getattr(self, name)}, but must be at least 1")
        # llama.cpp's limits; they keep a damaged file from asking for a table of billions of tensors.
        self._require(self.n_layers <= MAX_LAYERS, "n_layers", f"at most {MAX_LAYERS}")
        self._require(self.n_experts <= MAX_EXPERTS, "n_experts", f"at most {MAX_EXPERTS}")
        self._require(self.q_lora_rank is None or self.q_lora_rank > 0, "q_lora_rank", "positive or absent")
        self._require(self.qk_rope_dim % 2 == 0, "qk_rope_dim", "even")
        self._require(0 < self.rms_eps < 1, "rms_eps", "above 0 and below 1")
        # The rotations' wavelengths are powers of the base, and YaRN divides by its logarithm.
        self._require(1 < self.rope_theta < math.inf, "rope_theta", "above 1 and finite")
        self._require(0 < self.routed_scale < math.inf, "routed_scale", "above 0 and finite")
        self._require(0 <= self.n_dense_layers <= self.n_layers, "n_dense_layers", f"at most {self.n_layers} layers")
        self._require(self.n_shared_experts >= 0, "n_shared_experts", "0 or more")
        self._require(
            self.experts_per_token <= self.n_experts, "experts_per_token", f"at most {self.n_experts} experts"
        )
        self._require(self.n_experts % self.n_groups == 0, "n_groups", f"a divisor of {self.n_experts} experts")
        self._require(self.n_groups_used <= self.n_groups, "n_groups_used", f"at most {self.n_groups} groups")
        self._require(
            self.experts_per_token <= self.n_experts // self.n_groups * self.n_groups_used,
            "experts_per_token",
            f"at most the {self.n_experts // self.n_groups * self.n_groups_used} experts of the groups in use",
        )

    def _require(self, valid: bool, field: str, rule: str) -> None:
        if not valid:
            raise UnsupportedError(f"{field} is {getattr(self, field)}, but must be {rule}")

    @property
    def head_dim(self) -> int:
        """Width of one query or key head: the part without and the part with rotary position."""
        return self.qk_nope_dim + self.qk_rope_dim

    @property
    def latent_dim(self) -> int:
        """Values cached per token and layer: the latent and the one rotary key."""
        return self.kv_lora_rank + self.qk_rope_dim

    @property
    def shared_width(self) -> int:
        """Width of the shared experts, which are stored as one."""
        return self.expert_width * self.n_shared_experts

    def is_dense(self, layer: int) -> bool:
        """Whether `layer` has one feed-forward block instead of experts."""
        return layer < self.n_dense_layers
