"""What some kernels compute in one call for a few tokens: the parts of a decoder layer around its experts.

At one token a layer has some fifteen products and as many small steps between them. Where each is a call of its own,
the calls take longer than the work of a narrow model. Kernels without these are asked for product after product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from quant.kernels import ExpertCall, ExpertWeights
from quant.tensor import QuantizedTensor
from quant.types import BlockType


@dataclass(frozen=True, eq=False)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) with the norm before it.

    Norms are f32 of one dimension. `q_b` [heads * (nope + rope), q_rank] takes what `q_a` [q_rank, hidden] makes, or
    the hidden state itself where there is no `q_a`; `kv_a` [latent + rope, hidden]; `k_b` [heads, latent, nope];
    `v_b` [heads, value, latent]; `output` [hidden, heads * value].
    """

    norm: Tensor
    q_a: QuantizedTensor | None
    q_a_norm: Tensor | None
    q_b: QuantizedTensor
    kv_a: QuantizedTensor
    kv_a_norm: Tensor
    k_b: QuantizedTensor
    v_b: QuantizedTensor
    output: QuantizedTensor
    rope_dim: int
    eps: float
    lora_eps: float
    scale: float

    @property
    def types(self) -> frozenset[BlockType]:
        """The types of all its matrices."""
        matrices = (self.q_a, self.q_b, self.kv_a, self.k_b, self.v_b, self.output)
        return frozenset(w.type for w in matrices if w is not None)


@dataclass(frozen=True, eq=False)
class ExpertRouter:
    """The norm before the experts and the choice among them: `weight` [experts, hidden] and `bias` [experts] f32."""

    norm: Tensor
    weight: Tensor
    bias: Tensor | None
    eps: float
    used: int
    groups: int
    groups_used: int
    softmax: bool
    normalize: bool
    scale: float


@dataclass(frozen=True, eq=False)
class ExpertTable:
    """Experts of one shape at equal distances: the `first`, and bytes from each gate, up and down to the next one."""

    first: ExpertWeights
    experts: int
    step_bytes: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """A layer whose weights all stay where they are.

    With a router its `experts` are those that it chooses among, and every token goes to `shared`, if any. Without one
    the layer is dense: `norm` [hidden] f32 with `eps`, and the one expert of `experts` is its block.
    """

    attention: LatentAttention
    experts: ExpertTable
    router: ExpertRouter | None = None
    shared: ExpertWeights | None = None
    norm: Tensor | None = None
    eps: float = 0.0

    @property
    def types(self) -> frozenset[BlockType]:
        """The types of all its matrices."""
        blocks = [self.experts.first, *([] if self.shared is None else [self.shared])]
        return self.attention.types.union(*({block.gate.type, block.up.type, block.down.type} for block in blocks))


@dataclass(frozen=True, eq=False)
class PassNotes:
    """What happened to one token: each layer's experts in order of falling score (nothing for a dense one), and the
    seconds that its attention, its router and its experts took."""

    experts: list[list[int]]
    seconds: list[list[float]]


# x [T, hidden], the layer's cache [capacity, latent + rope], position, (cosines, sines) [T, rope / 2] each:
# x + attention(norm(x)) [T, hidden], which may be x itself.
Attend = Callable[[Tensor, Tensor, int, tuple[Tensor, Tensor]], Tensor]
# queries [T, heads * (nope + rope)], not yet rotated, the layer's cache, which holds the tokens' own latents from the
# position on, position, rotations: what each head takes, [T, heads * value].
AttendHeads = Callable[[Tensor, Tensor, int, tuple[Tensor, Tensor]], Tensor]
# x [1, hidden], which becomes the result, the caches of all layers, position, rotations [1, rope / 2] each.
Pass = Callable[[Tensor, Sequence[Tensor], int, tuple[Tensor, Tensor]], PassNotes]
# x [T, hidden]: norm(x), the experts' numbers int64 and their weights f32 [T, used], in order of falling score.
Route = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@runtime_checkable
class FusedKernels(Protocol):
    """Kernels that compute these parts of a layer in one call, most of them for 1 to `most_tokens` tokens."""

    most_tokens: int

    def weighted_experts(self, x: Tensor, weights: Sequence[ExpertWeights], scales: Tensor) -> Tensor | None:
        """`Kernels.experts` for one token: x [1, hidden] f32 by all of `weights`, with `scales` f32, one each.

        None when some weight's type is not served.
        """

    def add_experts(self, x: Tensor, calls: Sequence[ExpertCall], y: Tensor) -> bool:
        """`Kernels.experts`, added to what `y` [T, hidden] f32 holds, one expert after the other.

        Several calls give the same bits as one with all experts in the same order. False, with `y` as it was, when
        some weight's type is not served.
        """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Each row of x [T, n] f32 scaled to unit root mean square, then by `weight` [n] f32. Not in place."""

    def prepare_attention(self, attention: LatentAttention) -> Attend | None:
        """The attention as one call; None when some weight's type is not served."""

    def prepare_head_attention(self, attention: LatentAttention) -> AttendHeads | None:
        """What lies between the queries and the output product, with keys and values of every head expanded from the
        cache, for any number of tokens; None when the type of `k_b` or `v_b` is not served."""

    def prepare_router(self, router: ExpertRouter) -> Route:
        """The router as one call."""

    def prepare_pass(self, layers: Sequence[LayerWeights]) -> Pass | None:
        """One token through all these layers as one call, with the bits of the single ones; None when the type of some
        weight is not served."""
