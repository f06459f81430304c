"""Where the routed experts of a GGUF file lie, under the names that its tensors have."""

from collections.abc import Iterable

from k2lite.weights import WeightReader
from offload.slabs import LayerSlabs, SlabMap, StackedTensor
from quant.errors import GgufError
from quant.gguf.gguf_file import GgufFile


def expert_slabs(file: GgufFile, reader: WeightReader, layers: Iterable[int]) -> SlabMap:
    """The experts of `layers`. Raises GgufError when one is missing or has another shape than the model's."""
    return SlabMap({layer: _layer(file, reader, f"blk.{layer}.") for layer in layers})


def _layer(file: GgufFile, reader: WeightReader, prefix: str) -> LayerSlabs:
    c = reader.config
    fused = f"{prefix}ffn_gate_up_exps.weight"
    if fused in file.tensors:
        shape = (c.n_experts, 2 * c.expert_width, c.hidden_size)
        parts = [_stacked(file, reader, fused, shape)]
    else:
        parts = [_stacked(file, reader, f"{prefix}ffn_{part}_exps.weight") for part in ("gate", "up")]
    return LayerSlabs((*parts, _stacked(file, reader, f"{prefix}ffn_down_exps.weight")))


def _stacked(
    file: GgufFile, reader: WeightReader, name: str, shape: tuple[int, int, int] | None = None
) -> StackedTensor:
    info = file.tensors.get(name)
    if info is None:
        raise GgufError(f"tensor {name} is missing: the file is incomplete, convert or download it again")
    reader.check_shape(name, info.shape, shape)
    experts, rows, cols = info.shape
    return StackedTensor(info.path, info.offset_bytes, info.type, (experts, rows, cols))
