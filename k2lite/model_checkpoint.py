"""A checkpoint folder as one of the models that k2lite runs: found complete, and read part by part.

A part is one expert's matrix, or a run of rows with at most some 16 million weights. Reading it takes 4 bytes a weight
for the values and up to 20 MB, repacking INT4 as Q4_0 about 0.7 bytes a weight. Only kv_b_proj, whose two halves are
made out of the whole, is read whole: 6 bytes for each of its (in K2) 8.4 million weights.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.part_size import rows_in_part
from quant.checkpoint.repack import InexactScales
from quant.convert.source_tensor import SourceTensor
from quant.errors import CheckpointError


@dataclass(frozen=True)
class ModelCheckpoint:
    """A checkpoint in which every tensor that the model needs is there with the right shape.

    `inexact_scales` counts, as INT4 experts are repacked, the scales that Q4_0 cannot hold exactly.
    Raises CheckpointError when a tensor is missing or has another shape.
    """

    config: ModelConfig
    checkpoint: Checkpoint
    inexact_scales: InexactScales = field(default_factory=InexactScales)

    def __post_init__(self) -> None:
        available = set(self.checkpoint.names)
        for layout in tensor_layouts(self.config):
            for source in map(layout.source_name, range(layout.parts)):
                if source not in available:
                    raise CheckpointError(
                        f"{source} is missing from the checkpoint: download the shard that holds it again"
                    )
                shape = self.checkpoint.shape(source)
                if shape != layout.source_shape:
                    raise CheckpointError(
                        f"{source} has shape {list(shape)}, but config.json asks for {list(layout.source_shape)}: "
                        "they are of different models, download the checkpoint again"
                    )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "ModelCheckpoint":
        """Read the config, name the model after its folder and check that everything is there.

        Raises CheckpointError or UnsupportedError.
        """
        return cls(config_from_json(checkpoint.config, name=checkpoint.folder.resolve().name), checkpoint)

    def sources(self) -> list[SourceTensor]:
        """Every tensor of the file to be, read when it is asked for."""
        return [self._source(layout) for layout in tensor_layouts(self.config)]

    def left_out(self) -> list[str]:
        """What the model does not use, a line each: vision parts and multi-token prediction layers."""
        notes = []
        if self.checkpoint.skipped:
            notes.append(f"{self.checkpoint.skipped} vision tensors are left out: k2lite runs the text model")
        extra = sum(_layer_of(name) >= self.config.n_layers for name in self.checkpoint.names)
        if extra:
            notes.append(f"{extra} tensors of multi-token prediction layers are left out: decoding does not use them")
        return notes

    def stored_names(self) -> list[str]:
        """The checkpoint's names of all tensors that the model uses, each once."""
        names = (layout.source_name(part) for layout in tensor_layouts(self.config) for part in range(layout.parts))
        return list(dict.fromkeys(names))

    def count_inexact_scales(self, names: Collection[str]) -> dict[str, int]:
        """Rounded scales by tensor, for those of `names` that are INT4, parts that nobody repacked included.

        A run that goes on with the work of another does not see the parts which that one wrote; of those the scales
        are read here, 2 bytes for 32 weights.
        """
        for layout in tensor_layouts(self.config):
            if layout.name in names and "Q4_0" in self._exact(layout):
                for part in range(self._source(layout).parts):
                    if not self.inexact_scales.has(layout.name, part):
                        count = self.checkpoint.inexact_scales(*_place(layout, part))
                        self.inexact_scales.record(layout.name, part, count)
        return self.inexact_scales.totals()

    def _source(self, layout: TensorLayout) -> SourceTensor:
        read = partial(self._read, layout)
        return SourceTensor(layout.name, layout.shape, part_rows_of(layout), read, self._exact(layout))

    def _read(self, layout: TensorLayout, part: int) -> Tensor:
        if layout.transform is not None:
            return layout.transform(self.checkpoint.read(layout.source_name(part)), self.config)
        return self.checkpoint.read_rows(*_place(layout, part))

    def _exact(self, layout: TensorLayout) -> Mapping[str, Callable[[int], np.ndarray]]:
        """The block type that holds what is stored without rounding, where there is one."""
        storages = {self.checkpoint.storage(layout.source_name(part)) for part in range(layout.parts)}
        if layout.transform is not None or len(storages) > 1:
            return {}
        storage = storages.pop()
        if storage == "INT4":
            return {"Q4_0": partial(self._read_q4_0, layout)}
        return {} if storage == "FP8" else {storage: partial(self._read_stored, layout)}

    def _read_q4_0(self, layout: TensorLayout, part: int) -> np.ndarray:
        blocks, inexact = self.checkpoint.read_q4_0(*_place(layout, part))
        self.inexact_scales.record(layout.name, part, inexact)
        return blocks

    def _read_stored(self, layout: TensorLayout, part: int) -> np.ndarray:
        return self.checkpoint.read_stored(*_place(layout, part))


def part_rows_of(layout: TensorLayout) -> int:
    """Rows of a part: those of one slab, or as many as are read at once."""
    rows = math.prod(layout.shape[:-1])
    if layout.parts > 1 or layout.transform is not None:
        return rows // layout.parts
    return rows_in_part(rows, layout.shape[-1])


def _place(layout: TensorLayout, part: int) -> tuple[str, int, int]:
    """Checkpoint name and rows of a part: a whole tensor for a slab, else a run of rows of the only one."""
    part_rows = part_rows_of(layout)
    if layout.parts > 1:
        return layout.source_name(part), 0, part_rows
    start = part * part_rows
    return layout.source_name(0), start, min(start + part_rows, math.prod(layout.shape[:-1]))


def _layer_of(name: str) -> int:
    """Layer number in a checkpoint name, -1 outside the layers."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] and len(parts) > 2 and parts[2].isdigit() else -1
