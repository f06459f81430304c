"""What some kernels compute in one call for a few tokens: the parts of a decoder layer around its experts.

At one token a layer has some fifteen products and as many small steps between them. Where each is a call of its own,
the calls take longer than the work of a narrow model. Kernels without these are asked for product after product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from quant.kernels import ExpertCall, ExpertWeights
from quant.kernels.card_work import CardBuffers, CardCalls, CardPassCall, CardWork
from quant.kernels.expert_records import ExpertRecords
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
class LayerWeights:
    """A layer. With a router its `experts` are those that it chooses among, which may come and go, and every token goes
    to `shared`, if any. Without one it is dense: `norm` [hidden] f32 with `eps`, and the one of `experts` is its block.
    """

    attention: LatentAttention
    experts: ExpertRecords
    router: ExpertRouter | None = None
    shared: ExpertWeights | None = None
    norm: Tensor | None = None
    eps: float = 0.0

    @property
    def types(self) -> frozenset[BlockType]:
        """The types of all its matrices."""
        shared = [] if self.shared is None else [self.shared.gate, self.shared.up, self.shared.down]
        return self.attention.types | self.experts.types | {matrix.type for matrix in shared}


@dataclass(frozen=True, eq=False)
class Waiting:
    """Why a pass ended in front of a layer's experts: one of them is not here, or one that the next layer will probably
    ask for. What they get: `normed` [1, hidden] f32, `ids` int64 and `weights` f32 [1, used]."""

    normed: Tensor
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class PassNotes:
    """What happened to one token in the layers from `first` on: each layer's experts in order of falling score (nothing
    for a dense one), and the seconds that its attention, its router and its experts took.

    Of a layer that ended the pass, `waiting`, `experts` does not tell, and `seconds` has no experts.
    """

    first: int
    experts: list[list[int]]
    seconds: list[list[float]]
    waiting: Waiting | None


# x [T, hidden], the layer's cache [capacity, latent + rope], position, (cosines, sines) [T, rope / 2] each:
# x + attention(norm(x)) [T, hidden], which may be x itself.
Attend = Callable[[Tensor, Tensor, int, tuple[Tensor, Tensor]], Tensor]
# queries [T, heads * (nope + rope)], not yet rotated, the layer's cache, which holds the tokens' own latents from the
# position on, position, rotations: what each head takes, [T, heads * value].
AttendHeads = Callable[[Tensor, Tensor, int, tuple[Tensor, Tensor]], Tensor]
# x [T, hidden]: norm(x), the experts' numbers int64 and their weights f32 [T, used], in order of falling score.
Route = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class Pass(Protocol):
    """One token through many layers."""

    def __call__(
        self,
        x: Tensor,
        caches: Sequence[Tensor],
        position: int,
        rotations: tuple[Tensor, Tensor],
        first: int = 0,
        guess: int = 0,
    ) -> PassNotes:
        """x [1, hidden] f32, which becomes the result, through the layers from `first` on, given the caches of all
        layers, the token's position and its rotations [1, rope / 2] each.

        Waits in front of experts that are not here; with `guess` also where one of so many is not that the next layer's
        router puts first for the stream as it is.
        """


@runtime_checkable
class FusedKernels(Protocol):
    """Kernels that compute these parts of a layer in one call, most of them for 1 to `most_tokens` tokens."""

    most_tokens: int

    def multiplies(self, types: frozenset[BlockType]) -> bool:
        """Whether `dispatch` and the prepared calls take weights of these types."""

    def dispatch(
        self,
        x: Tensor,
        records: ExpertRecords,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None,
        leave_out: bool,
    ) -> tuple[Tensor | None, int, float]:
        """One token's experts: x [1, hidden] f32 by those of `ids` int64 [k], with `weights` f32 [k], and by `shared`.

        Returns the sum [1, hidden], how many of `ids` are in it, and seconds. With `leave_out` those that lie elsewhere
        are left out; the sum is None, and nothing was computed, when others are not here or some type is not served.
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

    def prepare_card_pass(self, calls: CardCalls, buffers: CardBuffers, works: Sequence[CardWork]) -> CardPassCall:
        """One token through layers of a card as one call. Raises ValueError for buffers that do not fit."""
