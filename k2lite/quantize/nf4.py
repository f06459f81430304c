"""From a checkpoint folder to a folder of NF4 weights, as bitsandbytes stores them, under their Hugging Face names."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from k2lite.model_checkpoint import ModelCheckpoint
from k2lite.quantize.folder_source import PlannedFolder
from k2lite.quantize.nf4_config import companion_files, config_bytes, nf4_config
from k2lite.quantize.source_base import storage_totals
from k2lite.tensor_layout import tensor_layouts
from quant.checkpoint.checkpoint import Checkpoint, read_config
from quant.checkpoint.entries import TensorEntry
from quant.checkpoint.part_size import rows_in_part
from quant.checkpoint.safetensors_layout import ShardEntry, StoredPart, shard_files, split_into_shards
from quant.checkpoint.shards import INDEX_NAME
from quant.convert.codec import BlockCodec, Codec
from quant.convert.job_types import ConvertJob, PlannedTensor
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.convert.source_tensor import SourceTensor
from quant.errors import CheckpointError, OutputError, UnsupportedError
from quant.files.file_identity import content_identity
from quant.files.paths import is_file
from quant.nf4.tensors import Nf4Codec, stored_parts
from quant.types import block_type

_PLAIN = ("F32", "F16", "BF16")
SHARD_BYTES = 5_000_000_000

# All that is part of the fingerprint beside the checkpoint's own files.
_ENCODER = "nf4 1"


@dataclass(frozen=True)
class Nf4Job:
    """A conversion that can begin: `notes` are for the user, a line each. The source is open while it is in use.

    `stored_bytes` is what the source takes by kind of storage, scales included. `complete` is False for a plan
    without weights.
    """

    job: ConvertJob
    notes: tuple[str, ...]
    stored_bytes: Mapping[str, int]
    complete: bool = True


@contextmanager
def nf4_job(
    source: Path,
    destination: Path,
    *,
    double_quant: bool = False,
    shard_bytes: int = SHARD_BYTES,
    planning: bool = False,
) -> Iterator[Nf4Job]:
    """Plan the folder `destination` out of the checkpoint in `source`, which is closed at the end of the block.

    Nothing is written and no weight is read here. `planning` accepts a folder whose weights are missing: the job of
    one cannot be run. Raises K2Error.
    """
    if is_file(source):
        raise UnsupportedError(
            f"NF4 is made out of a checkpoint folder, and {source} is a file: give the folder of safetensors files "
            "that it came from"
        )
    if shard_bytes < 1:
        raise OutputError(f"shards of {shard_bytes} bytes hold nothing: give 1 or more")
    with ExitStack() as stack:
        try:
            checkpoint = stack.enter_context(Checkpoint.open(source))
            model = ModelCheckpoint.of(checkpoint)
        except CheckpointError as error:
            if not planning:
                raise
            yield _planned_job(source, destination, double_quant, shard_bytes, str(error))
            return
        entries = [checkpoint.entry(name) for name in model.stored_names()]
        tensors = [_from_checkpoint(checkpoint, entry, double_quant) for entry in entries]
        totals = storage_totals((entry.storage, entry.rows * entry.cols, entry.nbytes) for entry in entries)
        layout, ordered = _layout(source, destination, checkpoint.config, tensors, double_quant, shard_bytes)
        job = ConvertJob(ordered, layout, _fingerprint(checkpoint, layout, double_quant))
        yield Nf4Job(job, tuple(model.left_out()), {kind: total.nbytes for kind, total in totals.items()})


def _planned_job(source: Path, destination: Path, double_quant: bool, shard_bytes: int, reason: str) -> Nf4Job:
    """What config.json alone says."""
    folder = PlannedFolder(source, reason)
    tensors = [
        _planned(name, layout.source_shape, "F32" if layout.source.endswith("_bias") else "BF16", double_quant)
        for layout in {layout.source: layout for layout in tensor_layouts(folder.config)}.values()
        for name in map(layout.source_name, range(layout.parts))
    ]
    layout, ordered = _layout(source, destination, read_config(source), tensors, double_quant, shard_bytes)
    stored_bytes = {kind: total.nbytes for kind, total in folder.storages.items()}
    return Nf4Job(ConvertJob(ordered, layout), folder.notes, stored_bytes, complete=False)


def _layout(
    source: Path,
    destination: Path,
    config: Mapping[str, Any],
    tensors: Sequence[PlannedTensor],
    double_quant: bool,
    shard_bytes: int,
) -> tuple[OutputLayout, tuple[PlannedTensor, ...]]:
    """All files of the output, and the tensors in the order in which they lie there."""
    by_name = {tensor.source.name: tensor for tensor in tensors}
    shards = split_into_shards([_entry(tensor, double_quant) for tensor in tensors], shard_bytes)
    small = dict(companion_files(source)) | {"config.json": config_bytes(nf4_config(config, double_quant))}
    files = [OutputFile(destination / name, content) for name, content in small.items()]
    layout = OutputLayout(destination, (*shard_files(destination, shards), *files), is_folder=True)
    return layout, tuple(by_name[entry.name] for shard in shards for entry in shard)


def is_quantized(name: str) -> bool:
    """Whether a tensor becomes NF4: every projection of attention, dense layers and experts.

    Embedding, head, routers, norms and biases stay as they are stored.
    """
    return name.startswith("model.layers.") and "_proj" in name.rsplit(".", 2)[-2]


def _from_checkpoint(checkpoint: Checkpoint, entry: TensorEntry, double_quant: bool) -> PlannedTensor:
    kept = entry.storage if entry.storage in _PLAIN else "BF16"
    tensor = _planned(entry.name, entry.shape, kept, double_quant)
    place = (checkpoint, entry.name, tensor.source.part_rows)
    # A codec takes the exact bytes of its own type only.
    exact: dict[str, Callable[[int], np.ndarray]] = {}
    if kept == entry.storage:
        exact[kept] = partial(_read_stored, *place)
    return replace(tensor, source=replace(tensor.source, read=partial(_read, *place), exact=exact))


def _planned(name: str, shape: tuple[int, ...], kept: str, double_quant: bool) -> PlannedTensor:
    """A tensor without values: NF4, or of the type `kept`."""

    def read(part: int) -> Tensor:
        raise CheckpointError(f"the weights of {name} are not here: this was planned from config.json alone")

    codec: Codec = Nf4Codec(double_quant) if is_quantized(name) else BlockCodec(block_type(kept))
    part_rows = rows_in_part(math.prod(shape[:-1]), shape[-1])
    return PlannedTensor(SourceTensor(name, shape, part_rows, read), codec)


def _read(checkpoint: Checkpoint, name: str, part_rows: int, part: int) -> Tensor:
    return checkpoint.read_rows(name, *_rows(checkpoint, name, part_rows, part))


def _read_stored(checkpoint: Checkpoint, name: str, part_rows: int, part: int) -> np.ndarray:
    return checkpoint.read_stored(name, *_rows(checkpoint, name, part_rows, part))


def _rows(checkpoint: Checkpoint, name: str, part_rows: int, part: int) -> tuple[int, int]:
    start = part * part_rows
    return start, min(start + part_rows, checkpoint.entry(name).rows)


def _entry(tensor: PlannedTensor, double_quant: bool) -> ShardEntry:
    shape = tensor.source.shape
    if isinstance(tensor.codec, Nf4Codec):
        return ShardEntry(tensor.source.name, tuple(stored_parts(shape, double_quant)))
    return ShardEntry(tensor.source.name, (StoredPart("", tensor.codec.name, shape, tensor.nbytes),))


def _fingerprint(checkpoint: Checkpoint, layout: OutputLayout, double_quant: bool) -> dict[str, str]:
    copied = [file.path.name for file in layout.files if not file.tensors]
    small = [checkpoint.folder / name for name in copied if name != INDEX_NAME]
    files = {path.name: content_identity(path, CheckpointError) for path in small}
    options = {"type": "NF4", "double quantization": "yes" if double_quant else "no", "encoder": _ENCODER}
    return options | checkpoint.identities | files
