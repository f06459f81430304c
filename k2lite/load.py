"""Loading a model from a GGUF file, an NF4 folder, or a checkpoint folder as it is."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from k2lite.chat_format import ChatFormat
from k2lite.config_gguf import config_from_gguf
from k2lite.config_json import config_from_json
from k2lite.engine_options import DEFAULT_KERNELS
from k2lite.events import EngineInfo
from k2lite.families import default_sampling, family_of
from k2lite.generation_config import StatedSampling, read_stated_sampling, stated_sampling_of
from k2lite.load_gguf import load_weights
from k2lite.load_nf4 import load_nf4_weights
from k2lite.model import Model
from k2lite.model_checkpoint import ModelCheckpoint
from k2lite.tokenizer import Tokenizer
from k2lite.weights import build_model, float_tensor
from offload.memory_options import MemoryOptions
from offload.probe_host import usable_cores
from quant.checkpoint.checkpoint import Checkpoint
from quant.errors import CheckpointError, GgufError, K2Error, UnsupportedError
from quant.files.paths import is_folder
from quant.gguf.gguf_file import GgufFile
from quant.kernels import Kernels, make_kernels
from quant.kernels.nf4 import with_nf4
from quant.nf4.nf4_file import Nf4Folder, is_nf4_folder
from quant.tensor import QuantizedTensor

ByteProgress = Callable[[int, int], None]


@dataclass
class LoadedModel:
    """A model that is ready, with all that turns text into its tokens and back. Owns the file and the threads."""

    model: Model
    tokenizer: Tokenizer
    chat_format: ChatFormat
    info: EngineInfo
    resources: ExitStack

    def close(self) -> None:
        """End the kernel threads and let go of the file. Safe to call twice."""
        self.resources.close()


def load_model(
    path: Path,
    *,
    kernels: str = DEFAULT_KERNELS,
    threads: int | None = None,
    pin_threads: bool = False,
    progress: ByteProgress | None = None,
    wrap_kernels: Callable[[Kernels], Kernels] | None = None,
    memory: MemoryOptions | None = None,
    record_routing: Path | None = None,
) -> LoadedModel:
    """Open a GGUF file (or shard 1 of several), an NF4 folder, or a checkpoint, whose weights are then kept as F32.

    `progress` is told (bytes ready, bytes in all). `wrap_kernels` makes the kernels that the model shall use out of
    those called `kernels`; `memory` says where experts may live, `record_routing` where to write down which are used.
    Raises K2Error.
    """
    with ExitStack() as stack:
        load = _loader(path)
        engine = make_kernels(kernels, threads or usable_cores(), pin_threads)
        stack.callback(engine.close)
        if load is _load_nf4:
            engine = with_nf4(engine)
        if wrap_kernels is not None:
            engine = wrap_kernels(engine)
        loaded = load(path, engine, stack, progress or _no_progress, memory or MemoryOptions())
        if record_routing is not None:
            loaded.model.record_routing(record_routing)
        loaded.resources = stack.pop_all()
        return loaded


def _no_progress(done_bytes: int, total_bytes: int) -> None:
    """Progress that nobody wants to see."""


class FloatTensors:
    """Tensors that were read from a folder into memory; those of a checkpoint as F32, exact and large."""

    error: type[K2Error] = CheckpointError

    def __init__(self, tensors: Mapping[str, QuantizedTensor]) -> None:
        self._tensors = tensors

    def find(self, name: str) -> QuantizedTensor | None:
        """See TensorSource.find."""
        return self._tensors.get(name)


def _loader(path: Path) -> Callable[[Path, Kernels, ExitStack, ByteProgress, MemoryOptions], LoadedModel]:
    if not is_folder(path):
        return _load_gguf
    return _load_nf4 if is_nf4_folder(path) else _load_checkpoint


def _load_gguf(
    path: Path, kernels: Kernels, stack: ExitStack, progress: ByteProgress, memory: MemoryOptions
) -> LoadedModel:
    file = stack.enter_context(GgufFile.open(path))
    config = config_from_gguf(file.metadata)
    model = load_weights(file, config, kernels, memory, progress)
    stack.callback(model.close)  # it reads the file in the background, also when what follows is refused
    tokenizer = Tokenizer.from_gguf(file.metadata)
    total = sum(info.nbytes for info in file.tensors.values())
    info = _info(config.name or path.stem, model, tokenizer, total, _main_type(file), stated_sampling_of(file.metadata))
    return _assemble(model, tokenizer, info, GgufError)


def _main_type(file: GgufFile) -> str:
    """The type that most bytes of the file have."""
    nbytes: Counter[str] = Counter()
    for info in file.tensors.values():
        nbytes[info.type.name] += info.nbytes
    return nbytes.most_common(1)[0][0]


def _load_nf4(
    path: Path, kernels: Kernels, stack: ExitStack, progress: ByteProgress, memory: MemoryOptions
) -> LoadedModel:
    with Nf4Folder(path) as folder:
        config = config_from_json(folder.config, name=path.resolve().name)
        tokenizer = Tokenizer.from_folder(path)
        weights = load_nf4_weights(folder, config, kernels, memory, progress)
    model = build_model(config, FloatTensors(weights.tensors), kernels, weights.make_experts, weights.builders)
    stack.callback(model.close)
    info = _info(config.name, model, tokenizer, weights.total_bytes, "NF4", read_stated_sampling(path))
    return _assemble(model, tokenizer, info, CheckpointError)


def _load_checkpoint(
    path: Path, kernels: Kernels, stack: ExitStack, progress: ByteProgress, memory: MemoryOptions
) -> LoadedModel:
    _refuse_paging(path, memory)
    with Checkpoint.open(path) as checkpoint:
        opened = ModelCheckpoint.of(checkpoint)
        tokenizer = Tokenizer.from_folder(path)
        tensors, total = _read_floats(opened, progress)
    model = build_model(opened.config, FloatTensors(tensors), kernels)
    stack.callback(model.close)
    info = _info(opened.config.name, model, tokenizer, total, "F32", read_stated_sampling(path))
    return _assemble(model, tokenizer, info, CheckpointError)


def _refuse_paging(path: Path, memory: MemoryOptions) -> None:
    """Raises UnsupportedError: experts come and go only out of GGUF files, whose bytes are multiplied as they lie."""
    if replace(memory, context_tokens=None) != MemoryOptions():
        raise UnsupportedError(
            f"{path} is a folder, whose weights are read into memory as a whole: leave out --ram-budget, --devices and "
            "--mirror, or make a GGUF file of it (k2lite quantize)"
        )


def _read_floats(opened: ModelCheckpoint, progress: ByteProgress) -> tuple[dict[str, QuantizedTensor], int]:
    """Decode every tensor to F32. Raises CheckpointError when memory cannot hold them."""
    sources = opened.sources()
    total = 4 * sum(math.prod(source.shape) for source in sources)
    available = psutil.virtual_memory().available
    if total > available:
        raise CheckpointError(
            f"the checkpoint takes {total / 1e9:.1f} GB as F32 and {available / 1e9:.1f} GB of memory are free: "
            "quantize it first (k2lite quantize) and load the file"
        )
    tensors, done = {}, 0
    for source in sources:
        values = torch.empty(source.rows, source.cols)
        for part in range(source.parts):
            rows = source.rows_of(part)
            values[rows.start : rows.stop] = source.read_rows(part)
        tensors[source.name] = float_tensor(values.view(source.shape))
        done += tensors[source.name].nbytes
        progress(done, total)
    return tensors, total


def _info(
    name: str, model: Model, tokenizer: Tokenizer, weight_bytes: int, quantization: str, stated: StatedSampling
) -> EngineInfo:
    family = family_of(tokenizer.chat_template)
    return EngineInfo(
        model_name=name,
        context_tokens=model.config.context_length,
        weight_bytes=weight_bytes,
        quantization=quantization,
        default_sampling=default_sampling(family, stated),
        instant_sampling=family.instant_sampling,
    )


def _assemble(model: Model, tokenizer: Tokenizer, info: EngineInfo, error: type[K2Error]) -> LoadedModel:
    """Raises `error` when the parts are not of one model."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise error(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model's vocabulary is "
            f"{model.config.vocab_size}: tokenizer and weights are of different models"
        )
    return LoadedModel(model, tokenizer, ChatFormat(tokenizer.chat_template, tokenizer), info, ExitStack())
