"""A checkpoint folder as a source of the quantizer, and a plan of one whose weights are not there yet."""

import math
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.generation_config import read_stated_sampling, sampling_metadata
from k2lite.gguf_metadata import model_metadata
from k2lite.model_checkpoint import ModelCheckpoint, part_rows_of
from k2lite.quantize.source_base import QuantizeSource, storage_totals
from k2lite.tensor_layout import TensorLayout, tensor_layouts
from k2lite.tokenizer import Tokenizer
from quant.checkpoint.checkpoint import Checkpoint, read_config
from quant.checkpoint.weight_scheme import WeightScheme, weight_scheme
from quant.convert.source_tensor import SourceTensor
from quant.errors import CheckpointError
from quant.files.file_identity import content_identity
from quant.files.paths import is_file
from quant.gguf.gguf_writer import MetadataEntry

# Files beside the weights whose content goes into the output.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tiktoken.model",
    "tokenizer.json",
    "chat_template.jinja",
)
_TOKENIZERS = ("tiktoken.model", "tokenizer.json")
_BYTES_PER_WEIGHT = {"F32": 4.0, "BF16": 2.0, "FP8": 1 + 4 / 128**2, "INT4": 1 / 2 + 2 / 32}


class FolderSource(QuantizeSource):
    """A complete checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises CheckpointError when anything is missing or damaged, UnsupportedError."""
        with ExitStack() as stack:
            self._checkpoint = stack.enter_context(Checkpoint.open(folder))
            self._model = ModelCheckpoint.of(self._checkpoint)
            entries = [self._checkpoint.entry(name) for name in self._model.stored_names()]
            storages = storage_totals((entry.storage, entry.rows * entry.cols, entry.nbytes) for entry in entries)
            super().__init__(
                folder,
                self._model.config,
                self._model.sources(),
                storages,
                default_recipe="INT4" if "INT4" in storages else "Q4_K_M",
                notes=self._model.left_out(),
                resources=stack.pop_all(),
            )

    def metadata(self, name: str | None, file_type: int) -> list[MetadataEntry]:
        """See QuantizeSource. Raises CheckpointError for a folder without tokenizer."""
        return _metadata(self.path, self.config, name, file_type, with_vocabulary=True)

    def fingerprint(self) -> dict[str, str]:
        """See QuantizeSource: shards by length, time and header, the small files by their content."""
        companions = [self.path / name for name in _COMPANIONS if is_file(self.path / name)]
        contents = {path.name: content_identity(path, CheckpointError) for path in companions}
        return self._checkpoint.identities | contents

    def count_inexact_scales(self, names: Collection[str]) -> dict[str, int]:
        """See QuantizeSource."""
        return self._model.count_inexact_scales(names)


class PlannedFolder(QuantizeSource):
    """What config.json alone says of a checkpoint: every tensor with its shape, and no values.

    Storages are what checkpoints of this scheme usually have.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        """`reason` says why the weights cannot be used. Raises CheckpointError, UnsupportedError."""
        fields = read_config(folder)
        scheme = weight_scheme(fields)
        config = config_from_json(fields, name=folder.resolve().name)
        layouts = tensor_layouts(config)
        has_tokenizer = any(is_file(folder / name) for name in _TOKENIZERS)
        notes = [f"planned from config.json alone: {reason}"]
        if not has_tokenizer:
            notes.append("the tokenizer is absent as well: the file will be larger by its size, up to 10 MB")
        if "vision_config" in fields:
            notes.append("the vision tensors are left out: k2lite runs the text model")
        super().__init__(
            folder,
            config,
            [_without_values(layout, reason) for layout in layouts],
            storage_totals(stored for layout in layouts for stored in _expected(layout, scheme)),
            default_recipe="INT4" if scheme == "int4" else "Q4_K_M",
            notes=notes,
            complete=False,
        )
        self._has_tokenizer = has_tokenizer

    def metadata(self, name: str | None, file_type: int) -> list[MetadataEntry]:
        """See QuantizeSource; without the tokenizer's keys when there is none yet."""
        return _metadata(self.path, self.config, name, file_type, with_vocabulary=self._has_tokenizer)

    def fingerprint(self) -> dict[str, str]:
        """See QuantizeSource; nothing is read."""
        return {}


def _metadata(
    folder: Path, config: ModelConfig, name: str | None, file_type: int, *, with_vocabulary: bool
) -> list[MetadataEntry]:
    """The model's keys, its sampling and the tokenizer's."""
    vocabulary = Tokenizer.from_folder(folder).gguf_metadata(config.vocab_size) if with_vocabulary else []
    return [
        *model_metadata(config, name or config.name, file_type),
        *sampling_metadata(read_stated_sampling(folder)),
        *(MetadataEntry(*entry) for entry in vocabulary),
    ]


def _without_values(layout: TensorLayout, reason: str) -> SourceTensor:
    def read(part: int) -> Tensor:
        raise CheckpointError(f"the weights of {layout.name} are not here: {reason}")

    return SourceTensor(layout.name, layout.shape, part_rows_of(layout), read)


def _expected(layout: TensorLayout, scheme: WeightScheme) -> list[tuple[str, int, int]]:
    """(storage, weights, bytes) of what a layout is read from. Both halves of kv_b_proj come from the same tensor."""
    if layout.name.endswith("attn_v_b.weight"):
        return []
    storage = "BF16"
    if layout.name.endswith("exp_probs_b.bias"):
        storage = "F32"
    elif scheme == "fp8" and "_proj" in layout.source:
        storage = "FP8"
    elif scheme == "int4" and layout.parts > 1:
        storage = "INT4"
    weights = math.prod(layout.source_shape)
    return [(storage, weights, round(weights * _BYTES_PER_WEIGHT[storage]))] * layout.parts
