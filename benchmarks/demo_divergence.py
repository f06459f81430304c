"""How far the demo model's predictions move when some of its weights are rounded to other types."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from k2lite.demo.prepare import demo_eval_text, demo_source
from k2lite.evaluate import kl_divergence
from k2lite.load import FloatTensors
from k2lite.model_checkpoint import ModelCheckpoint
from k2lite.tokenizer import Tokenizer
from k2lite.weights import build_model, float_tensor
from quant.checkpoint.checkpoint import Checkpoint
from quant.encode.decode import dequantize
from quant.encode.encode import ENCODERS, encode, encoder_name
from quant.kernels import Kernels, make_kernels
from quant.tensor import QuantizedTensor
from quant.types import BlockType

_WINDOW = 512


@dataclass(frozen=True)
class Divergence:
    """KL divergence from the exact model, in nats, of each token [T] f64."""

    kl: Tensor

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.kl.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.kl.std()) / math.sqrt(len(self.kl))

    def minus(self, other: "Divergence") -> "Divergence":
        """The difference token by token, whose error is smaller than that of both means."""
        return Divergence(self.kl - other.kl)


class Demo:
    """The exact demo model and its predictions of a text. Not for use by two threads."""

    def __init__(self, kernels: Kernels, max_tokens: int) -> None:
        with Checkpoint.open(demo_source()) as checkpoint:
            opened = ModelCheckpoint.of(checkpoint)
            self.config = opened.config
            self._values = {
                source.name: torch.cat([source.read_rows(part) for part in range(source.parts)]).reshape(source.shape)
                for source in opened.sources()
            }
        self._exact = {name: float_tensor(values) for name, values in self._values.items()}
        self._encoded: dict[tuple[str, str, str], QuantizedTensor] = {}
        self._kernels = kernels
        text = demo_eval_text().read_text(encoding="utf-8")
        ids = Tokenizer.from_folder(demo_source()).encode(text)[:max_tokens]
        self._windows = [torch.tensor(ids[start : start + _WINDOW]) for start in range(0, len(ids), _WINDOW)]
        self.tokens = len(ids)
        self._expected = [logits.double().log_softmax(-1) for logits in self._logits(self._exact)]

    @property
    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and numpy shapes of all tensors."""
        return [(name, tuple(values.shape)) for name, values in self._values.items()]

    def rounded_alone(self, types: Mapping[str, BlockType]) -> Divergence:
        """With the tensors of `types` rounded, all others exact, and exact sums: the cost of that rounding alone.

        The mean over our encoders and ggml's, which round differently: chance plays a part in which experts are chosen
        after a change this small, and two draws show it better than one.
        """
        several = any(encoder_name(block) != "ggml" for block in types.values())
        draws = []
        for encoders in ENCODERS if several else ("ggml",):
            blocks = {name: self._block(name, block, encoders) for name, block in types.items()}
            draws.append(self._measure({name: float_tensor(dequantize(block)) for name, block in blocks.items()}).kl)
        return Divergence(torch.stack(draws).mean(0))

    def as_file(self, types: Mapping[str, BlockType]) -> Divergence:
        """As a file of these types runs: with the kernels for blocks, which round activations as well."""
        return self._measure({name: self._block(name, block, "native") for name, block in types.items()})

    def _block(self, name: str, block: BlockType, encoders: str) -> QuantizedTensor:
        key = name, block.name, encoders
        if key not in self._encoded:
            values = self._values[name]
            encoded = encode(values, block, encoders=encoders)
            self._encoded[key] = QuantizedTensor(block, tuple(values.shape), encoded)
        return self._encoded[key]

    def _measure(self, changed: Mapping[str, QuantizedTensor]) -> Divergence:
        results = zip(self._expected, self._logits({**self._exact, **changed}), strict=True)
        kl = torch.cat([kl_divergence(expected, logits.double().log_softmax(-1)) for expected, logits in results])
        return Divergence(kl)

    def _logits(self, tensors: Mapping[str, QuantizedTensor]) -> Iterator[Tensor]:
        """Logits [T, vocab] f32 of each window."""
        model = build_model(self.config, FloatTensors(tensors), self._kernels)
        for window in self._windows:
            yield model.forward(window, model.new_cache(len(window)), last_only=False)


@contextmanager
def opened_demo(max_tokens: int, threads: int) -> Iterator[Demo]:
    """The demo model with kernel threads of its own, which end with the block."""
    torch.set_num_threads(threads)
    kernels = make_kernels("ggml", threads)
    try:
        yield Demo(kernels, max_tokens)
    finally:
        kernels.close()


def total_bytes(shapes: Sequence[tuple[int, ...]], blocks: Sequence[BlockType]) -> int:
    """Bytes of tensors of these shapes and types."""
    pairs = zip(shapes, blocks, strict=True)
    return sum(math.prod(shape[:-1]) * block.row_bytes(shape[-1]) for shape, block in pairs)
