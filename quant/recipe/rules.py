"""What the rules of recipes ask about a tensor: its role, its layer, the shape of the model around it.

Roles and thresholds are those by which llama.cpp's quantizer decides for this architecture.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

_LAYER = re.compile(r"blk\.(\d+)\.")
_STAYS_F32 = ("_norm.weight", "ffn_gate_inp.weight")


@dataclass(frozen=True)
class Place:
    """A tensor within its model.

    `layer` is None outside the layers. `downs_before` counts the last matrices of feed-forward blocks that come before
    this tensor, layer by layer, dense ones, experts and shared experts each for itself. `tied` says that the model has
    no head of its own. `imatrix` says that the importance of columns is known.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    n_layers: int
    n_experts: int
    downs_before: int = 0
    tied: bool = False
    imatrix: bool = False


Condition = Callable[[Place], bool]


@dataclass(frozen=True)
class Rule:
    """Tensors for which all of `conditions` hold get `type`."""

    type: str
    conditions: tuple[Condition, ...]

    def applies(self, place: Place) -> bool:
        """Whether the tensor at `place` gets this type."""
        return all(condition(place) for condition in self.conditions)


def rule(type_name: str, *conditions: Condition) -> Rule:
    """`rule("Q6_K", down, more_bits)` reads as a line of a table."""
    return Rule(type_name, conditions)


# Roles.


def head(place: Place) -> bool:
    """What turns a hidden state into logits: the head, or the embedding where it serves as one."""
    return place.name == "output.weight" or (place.tied and place.name == "token_embd.weight")


def embedding(place: Place) -> bool:
    """The table of token vectors."""
    return place.name == "token_embd.weight"


def down(place: Place) -> bool:
    """The last matrix of a feed-forward block, be it dense, expert or shared."""
    return is_down(place.name)


def gate_or_up(place: Place) -> bool:
    """The first matrices of a feed-forward block."""
    return "ffn_gate" in place.name or "ffn_up" in place.name


def attention_output(place: Place) -> bool:
    """The last matrix of attention."""
    return place.name.endswith("attn_output.weight")


def full_query(place: Place) -> bool:
    """The query matrix of models that do not split it in two."""
    return place.name.endswith("attn_q.weight")


def expert(place: Place) -> bool:
    """The matrices of all routed experts of a layer, stacked."""
    return place.name.endswith("_exps.weight")


def query(place: Place) -> bool:
    """The matrices that make queries, one or two in a layer."""
    return ".attn_q" in place.name


def shared_expert(place: Place) -> bool:
    """The matrices of the expert that every token passes."""
    return place.name.endswith("_shexp.weight")


def stacked(place: Place) -> bool:
    """Three dimensions: matrices of all experts or heads in one tensor."""
    return rank(place.shape) == 3


# Layers.


def first_eighth(place: Place) -> bool:
    """The first eighth of the layers, rounded down."""
    return place.layer is not None and place.layer < place.n_layers // 8


def first_sixteenth(place: Place) -> bool:
    """The first sixteenth of the layers, rounded down."""
    return place.layer is not None and place.layer < place.n_layers // 16


def middle(place: Place) -> bool:
    """All layers but the first and the last eighth."""
    return place.layer is not None and place.n_layers // 8 <= place.layer < 7 * place.n_layers // 8


def more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third one between."""
    if place.layer is None:
        return False
    return not middle(place) or (place.layer - place.n_layers // 8) % 3 == 2


def first_downs(place: Place) -> bool:
    """Among the first (layers / 8) down matrices, which are fewer layers: a mixture layer has two of them.

    llama.cpp counts so for file types of 1 and 2 bits, and by layers for all others.
    """
    return place.downs_before < place.n_layers // 8


# The model.


def eight_experts(place: Place) -> bool:
    """Exactly eight routed experts: llama.cpp's rule for Mixtral, which looks at nothing but their number."""
    return place.n_experts == 8


def imatrix(place: Place) -> bool:
    """The importance of columns is known."""
    return place.imatrix


def no_imatrix(place: Place) -> bool:
    """The importance of columns is not known."""
    return not place.imatrix


def odd_width(place: Place) -> bool:
    """Rows that are no multiple of 256 weights."""
    return place.shape[-1] % 256 != 0


# Names and shapes.


def is_down(name: str) -> bool:
    """Whether `name` is the last matrix of a feed-forward block."""
    return "ffn_down" in name and name.endswith(".weight")


def stays_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Norms, biases and the router: they are small, and the router's choice of experts hangs on its bits."""
    return rank(shape) == 1 or not name.endswith(".weight") or name.endswith(_STAYS_F32)


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to, None for the embedding, the last norm and the head."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def rank(shape: tuple[int, ...]) -> int:
    """Dimensions as ggml counts them: leading ones do not count."""
    return next((len(shape) - axis for axis, size in enumerate(shape[:-1]) if size > 1), 1)
