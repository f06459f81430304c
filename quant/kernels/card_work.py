"""What native code needs to know of a card to take a token through its layers: the driver, its buffers, its work."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from quant.kernels.expert_records import ExpertRecords


@dataclass(frozen=True, eq=False)
class CardCalls:
    """Addresses of a card's driver's functions, see k2quant_card; `kept` is what they belong to."""

    launch: int
    copy: int
    record: int
    wait: int
    kept: object = None


@dataclass(frozen=True, eq=False)
class CardBuffers:
    """What crosses between a card and the host for one token, float32: [1, 2 * hidden + 2 * used] stream, its norm, the
    experts' weights and their numbers; and back [1, hidden] the sum of those that were multiplied here. `packed` and
    `sum` are there. `stream` and `event` are the driver's handles."""

    packed: Tensor
    packed_here: Tensor
    sum: Tensor
    sum_here: Tensor
    stream: int
    event: int


@dataclass(frozen=True, eq=False)
class CardWork:
    """What a card does of a layer, as handles of recordings: `in_front` of its experts, adding `sum` before where the
    layer before has experts, and `beside` them. `records` is None in a dense layer. With `leave_out` experts that lie
    elsewhere are in `beside`."""

    in_front: int
    beside: int
    records: ExpertRecords | None
    leave_out: bool


@dataclass(frozen=True, eq=False)
class CardNotes:
    """What happened to one token: each layer's experts (nothing for a dense one), how many of them were multiplied in
    RAM, and in how many seconds. `waiting` ids [1, used] are of the layer in front of whose experts it ended, if one
    is in no place that it knows; `answer` is the driver's when it refused something, else 0."""

    experts: list[list[int]]
    in_ram: list[int]
    seconds: list[float]
    waiting: Tensor | None
    answer: int


# One token through a card's layers from this one on.
CardPassCall = Callable[[int], CardNotes]
