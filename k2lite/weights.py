"""Building a model out of named tensors, whatever file they come from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from k2lite.attention import Attention, AttentionWeights
from k2lite.config import ModelConfig
from k2lite.home import RAM, Home
from k2lite.layer import Choice, DecoderLayer, Head, HostHead, Layer
from k2lite.model import Model
from k2lite.norm import norm_of
from k2lite.router import Router
from k2lite.tensor_layout import key_up, tensor_layouts, value_up
from offload.experts import Experts
from offload.mapped_experts import FusedExperts, MappedExperts, StackedExperts
from offload.ram_tier import LayerExperts
from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.errors import K2Error
from quant.kernels import ExpertWeights, Kernels
from quant.tensor import QuantizedTensor
from quant.types import block_type


class TensorSource(Protocol):
    """Named tensors in the layout and with the names of a GGUF file."""

    error: type[K2Error]

    def find(self, name: str) -> QuantizedTensor | None:
        """The tensor called `name`, or None where there is none."""


@runtime_checkable
class WeightWatcher(Protocol):
    """Kernels that want to see every weight multiplied as the file has it, and to know it by name."""

    def watch(self, name: str, w: QuantizedTensor) -> None:
        """Told of each weight while the model is built; its bytes stay where they are."""


class WeightReader:
    """Takes tensors from a source and checks that each has the shape the config asks for."""

    def __init__(self, config: ModelConfig, source: TensorSource, watcher: WeightWatcher | None = None) -> None:
        self.config = config
        self.watcher = watcher
        self.source = source
        self._shapes = {layout.name: layout.shape for layout in tensor_layouts(config)}

    def has(self, name: str) -> bool:
        """Whether the source has a tensor of this name."""
        return self.source.find(name) is not None

    def quantized(self, name: str, shape: tuple[int, ...] | None = None) -> QuantizedTensor:
        """The tensor as it lies in the file. Raises the source's error when it is missing or has another shape."""
        tensor = self.source.find(name)
        if tensor is None:
            raise self.source.error(f"tensor {name} is missing: the file is incomplete, convert or download it again")
        self.check_shape(name, tensor.shape, shape)
        return self.watched(name, tensor)

    def check_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...] | None = None) -> None:
        """Raises the source's error when a tensor has another shape than `expected`, or than the model asks for."""
        expected = expected or self._shapes[name]
        if found != expected:
            raise self.source.error(
                f"tensor {name} has shape {list(found)}, but the model's metadata asks for {list(expected)}: "
                "the file is damaged, convert or download it again"
            )

    def watched(self, name: str, tensor: QuantizedTensor) -> QuantizedTensor:
        """`tensor`, of which the watcher has been told."""
        if self.watcher is not None:
            self.watcher.watch(name, tensor)
        return tensor

    def floats(self, name: str) -> Tensor:
        """The decoded tensor in f32, for norms, biases and routers. Raises the source's error for NaN or inf."""
        values = dequantize(self.quantized(name))
        if not torch.isfinite(values).all():
            raise self.source.error(
                f"tensor {name} holds NaN or inf: the file is damaged, convert or download it again"
            )
        return values


# Makes the door to the experts, once all else is there; the routers are those of the layers that have some.
MakeExperts = Callable[[WeightReader, Mapping[int, Choice], Kernels], Experts]


class Builder(Protocol):
    """Makes parts of a model in one home."""

    def layer(self, reader: WeightReader, index: int) -> DecoderLayer:
        """The `index`-th decoder layer."""

    def head(self, reader: WeightReader) -> Head:
        """The last norm and the product with the vocabulary."""


@dataclass(frozen=True)
class HostBuilder:
    """Parts that the processor computes, on weights where `reader` finds them."""

    kernels: Kernels
    home: Home = RAM

    def layer(self, reader: WeightReader, index: int) -> Layer:
        """See Builder.layer."""
        config, kernels = reader.config, self.kernels
        attention = Attention(attention_weights(reader, index), config, kernels, reader.watcher is not None)
        norm, norm_weight = norm_of(kernels), reader.floats(f"blk.{index}.ffn_norm.weight")
        if config.is_dense(index):
            dense = feed_forward(reader, index, "")
            return Layer(attention, kernels, norm, config.rms_eps, norm_weight, dense, home=self.home)
        shared = feed_forward(reader, index, "_shexp") if config.n_shared_experts else None
        router = Router(norm_weight, *router_weights(reader, index), config, kernels)
        return Layer(attention, kernels, norm, config.rms_eps, router=router, shared=shared, home=self.home)

    def head(self, reader: WeightReader) -> HostHead:
        """See Builder.head."""
        norm, eps = reader.floats("output_norm.weight"), reader.config.rms_eps
        return HostHead(head_weight(reader), norm, eps, norm_of(self.kernels), self.kernels, self.home)


def build_model(
    config: ModelConfig,
    source: TensorSource,
    kernels: Kernels,
    make_experts: MakeExperts | None = None,
    builders: Sequence[Builder] = (),
) -> Model:
    """Connect every weight of `source` to the layer that uses it. Without `make_experts`, experts are mapped.

    `builders`, one for each layer and one for the head, say where each of them computes; without any, the processor.
    """
    reader = WeightReader(config, source, kernels if isinstance(kernels, WeightWatcher) else None)
    *of_layers, of_head = builders or [HostBuilder(kernels)] * (config.n_layers + 1)
    layers = [builder.layer(reader, index) for index, builder in enumerate(of_layers)]
    embedding, head = reader.quantized("token_embd.weight"), of_head.head(reader)
    routers = {index: layer.router for index, layer in enumerate(layers) if layer.router is not None}
    # Last, since it may begin to work in the background: nothing that could be refused comes after it.
    experts = (make_experts or _mapped_experts)(reader, routers, kernels)
    return Model(config, embedding, layers, head, experts, kernels)


def head_weight(reader: WeightReader) -> QuantizedTensor:
    """A file without a head has tied embeddings, whatever its metadata says: that is how the format marks them."""
    return reader.quantized("output.weight" if reader.has("output.weight") else "token_embd.weight")


def attention_weights(reader: WeightReader, index: int) -> AttentionWeights:
    """A layer's attention as it lies in the file."""
    prefix = f"blk.{index}."
    low_rank = reader.config.q_lora_rank is not None
    k_b, v_b = _kv_up(reader, prefix)
    return AttentionWeights(
        norm=reader.floats(f"{prefix}attn_norm.weight"),
        q=None if low_rank else reader.quantized(f"{prefix}attn_q.weight"),
        q_a=reader.quantized(f"{prefix}attn_q_a.weight") if low_rank else None,
        q_a_norm=reader.floats(f"{prefix}attn_q_a_norm.weight") if low_rank else None,
        q_b=reader.quantized(f"{prefix}attn_q_b.weight") if low_rank else None,
        kv_a=reader.quantized(f"{prefix}attn_kv_a_mqa.weight"),
        kv_a_norm=reader.floats(f"{prefix}attn_kv_a_norm.weight"),
        k_b=k_b,
        v_b=v_b,
        output=reader.quantized(f"{prefix}attn_output.weight"),
    )


def _kv_up(reader: WeightReader, prefix: str) -> tuple[QuantizedTensor, QuantizedTensor]:
    """The key and value up-projections; files of the old layout hold both in one attn_kv_b."""
    if reader.has(f"{prefix}attn_k_b.weight"):
        return reader.quantized(f"{prefix}attn_k_b.weight"), reader.quantized(f"{prefix}attn_v_b.weight")
    c = reader.config
    shape = (c.n_heads * (c.qk_nope_dim + c.v_dim), c.kv_lora_rank)
    kv_b = dequantize(reader.quantized(f"{prefix}attn_kv_b.weight", shape))
    # The key half has to be transposed, which breaks its blocks; F32 keeps the file's values exactly.
    k_b, v_b = float_tensor(key_up(kv_b, c)), float_tensor(value_up(kv_b, c))
    return reader.watched(f"{prefix}attn_k_b.weight", k_b), reader.watched(f"{prefix}attn_v_b.weight", v_b)


def float_tensor(values: Tensor) -> QuantizedTensor:
    """Values kept as F32 in memory, in the form that kernels take."""
    float32 = block_type("F32")
    return QuantizedTensor(float32, tuple(values.shape), encode(values, float32))


def feed_forward(reader: WeightReader, index: int, suffix: str) -> ExpertWeights:
    """A dense block or a shared expert: the same three matrices as a routed expert has."""
    gate, up, down = (reader.quantized(f"blk.{index}.ffn_{part}{suffix}.weight") for part in ("gate", "up", "down"))
    return ExpertWeights(gate, up, down)


def router_weights(reader: WeightReader, index: int) -> tuple[Tensor, Tensor | None]:
    """The router's weight [experts, hidden] f32, and its bias [experts] where it has one."""
    biased = reader.config.scoring == "sigmoid"
    bias = reader.floats(f"blk.{index}.exp_probs_b.bias") if biased else None
    return reader.floats(f"blk.{index}.ffn_gate_inp.weight"), bias


def _mapped_experts(reader: WeightReader, routers: Mapping[int, Choice], kernels: Kernels) -> Experts:
    return MappedExperts(mapped_layers(reader, routers), kernels)


def mapped_layers(reader: WeightReader, layers: Iterable[int]) -> dict[int, LayerExperts]:
    """The experts of some layers as they lie in memory, by layer number."""
    return {index: _experts(reader, f"blk.{index}.") for index in layers}


def _experts(reader: WeightReader, prefix: str) -> LayerExperts:
    c = reader.config
    down = reader.quantized(f"{prefix}ffn_down_exps.weight")
    if reader.has(f"{prefix}ffn_gate_up_exps.weight"):
        shape = (c.n_experts, 2 * c.expert_width, c.hidden_size)
        return FusedExperts(reader.quantized(f"{prefix}ffn_gate_up_exps.weight", shape), down)
    gate, up = (reader.quantized(f"{prefix}ffn_{part}_exps.weight") for part in ("gate", "up"))
    return StackedExperts(gate, up, down)
