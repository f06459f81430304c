"""What a conversion is asked to do, and what it says while it works and at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from quant.convert.codec import Codec
from quant.convert.output_layout import OutputLayout
from quant.convert.source_tensor import SourceTensor
from quant.errors import K2Error

if TYPE_CHECKING:
    from quant.convert.verify_result import Verification

# (name, numpy shape) -> float32 [slabs, cols], the weight of each column's squared error, or None for no preference.
ImportanceOf = Callable[[str, tuple[int, ...]], Tensor | None]


class ConversionStopped(K2Error):
    """The conversion was stopped from outside. What was written stays; the message says how to go on."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor with the way in which it will be written."""

    source: SourceTensor
    codec: Codec

    @property
    def nbytes(self) -> int:
        """Bytes in the output, without padding. Raises UnsupportedError when the codec cannot write the shape."""
        return self.codec.nbytes(self.source.shape)


@dataclass(frozen=True)
class ConvertJob:
    """Everything that decides the bytes of the output.

    `layout` holds the tensors in the order of `tensors`. A run goes on with the work of another only when all entries
    of `fingerprint` are equal: what the source is, the options, the encoder. A key that differs is named to the user,
    so keys are words ("type", "importance", "model-00001.safetensors") and values as short as they can be.
    """

    tensors: tuple[PlannedTensor, ...]
    layout: OutputLayout
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    importance: ImportanceOf | None = None

    def __post_init__(self) -> None:
        planned = [(tensor.source.name, tensor.nbytes) for tensor in self.tensors]
        laid_out = [(tensor.name, tensor.nbytes) for file in self.layout.files for tensor in file.tensors]
        if planned != laid_out:
            wrong = next((pair for pair in zip(planned, laid_out, strict=False) if pair[0] != pair[1]), "their number")
            raise ValueError(f"the tensors of the plan and of the layout differ: {wrong}")

    @property
    def total_weights(self) -> int:
        """Weights of all tensors."""
        return sum(tensor.source.weights for tensor in self.tensors)


@dataclass(frozen=True)
class ConvertLimits:
    """How much a conversion may hold in memory and lose in a crash. None of it changes a byte of the output.

    A stretch goes to the journal after `stretch_bytes` or `stretch_s`, whichever comes first. `memory_bytes` bounds
    what is read ahead together with what waits to be written. A chunk is about `chunk_s` of an encoder's time, and
    never more than `chunk_weights`: that is how long a stop may take.
    """

    stretch_bytes: int = 64 * 1024 * 1024
    stretch_s: float = 1.0
    memory_bytes: int = 512 * 1024 * 1024
    chunk_weights: int = 1 << 22
    chunk_s: float = 0.2


@dataclass(frozen=True)
class Stretch:
    """Bytes `start` to `end` of file number `file` of the layout, known to be on the drive, with their digest."""

    file: int
    start: int
    end: int
    digest: str

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.end - self.start


Phase = Literal["writing", "verifying"]


@dataclass(frozen=True)
class ConvertProgress:
    """How far a conversion is. Everything counts from the beginning of the output, resumed work included.

    While "writing", `tensor_name` is the tensor whose bytes were written last and `written_bytes` what is in the
    files. While "verifying", both counts begin again and say how much was read back; weights stay at their total.
    `resumed_*` is what earlier runs had done: speeds are of (done - resumed) in `elapsed_s`.
    """

    phase: Phase
    done_weights: int
    total_weights: int
    written_bytes: int
    total_bytes: int
    resumed_weights: int
    resumed_bytes: int
    tensor_name: str
    elapsed_s: float


@dataclass(frozen=True)
class TypeTotal:
    """What an output holds of one type. `nbytes` is without padding."""

    tensors: int
    weights: int
    nbytes: int


@dataclass(frozen=True)
class WorkDone:
    """What this run did itself, apart from what earlier runs had left.

    `encoded_weights` went through an encoder, `copied_weights` came as exact bytes. `earlier_*` is what the journal
    knows of the runs before this one.
    """

    resumed_weights: int = 0
    resumed_bytes: int = 0
    encoded_weights: int = 0
    copied_weights: int = 0
    verifying_s: float = 0.0
    earlier_runs: int = 0
    earlier_s: float = 0.0


@dataclass(frozen=True)
class ConvertReport:
    """A finished conversion. `types` is ordered by bytes, largest first; `file_bytes` is the length of all files.

    `verification` is None when it was not asked for, or done by an earlier run.
    """

    path: Path
    files: tuple[Path, ...]
    types: dict[str, TypeTotal]
    file_bytes: int
    seconds: float
    work: WorkDone
    verification: "Verification | None" = None


def type_totals(tensors: tuple[PlannedTensor, ...]) -> dict[str, TypeTotal]:
    """What a plan holds of each type, the largest first."""
    totals: dict[str, TypeTotal] = {}
    for tensor in tensors:
        so_far = totals.get(tensor.codec.name, TypeTotal(0, 0, 0))
        weights, nbytes = so_far.weights + tensor.source.weights, so_far.nbytes + tensor.nbytes
        totals[tensor.codec.name] = TypeTotal(so_far.tensors + 1, weights, nbytes)
    return dict(sorted(totals.items(), key=lambda item: -item[1].nbytes))
