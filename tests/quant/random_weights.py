"""Random weights of every type, NF4 too. Types whose encoder takes seconds get random blocks instead of encoded."""

import numpy as np
import torch

from quant.encode.encode import encode
from quant.nf4.values import NF4, NF4_VALUES, encode_nf4, to_blocks
from quant.tensor import QuantizedTensor
from quant.types import BlockType

# Where the half-precision scale of a block lies, for the types whose encoders first search their grids for seconds.
SCALE_OFFSETS = {"IQ2_XXS": 0, "IQ2_XS": 0, "IQ2_S": 0, "IQ3_XXS": 0, "IQ3_S": 0, "IQ1_S": 0}
IQ1_M_SCALES_OFFSET = 48  # four 16-bit words, whose top nibbles are the scale


def random_weights(block: BlockType, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    """Weights of about the same size in every row, at an address that is aligned to 32 bytes but not to 64."""
    if block.name in SCALE_OFFSETS or block.name == "IQ1_M":
        return _placed(block, shape, _random_blocks(block, shape, seed))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if block == NF4:
        data = np.empty(values.numel() // block.block_weights * block.block_bytes, dtype=np.uint8)
        to_blocks(*encode_nf4(values), data)
        return _placed(block, shape, data)
    return _placed(block, shape, encode(values, block))


def exact_values(w: QuantizedTensor) -> torch.Tensor:
    """What the gguf package (of NF4: the definition) says that the bytes mean, in float64."""
    import gguf

    if w.type == NF4:
        return _nf4_values(w)
    values = gguf.quants.dequantize(w.data.reshape(-1, w.row_bytes), gguf.GGMLQuantizationType(w.type.ggml_id))
    return torch.from_numpy(values.astype(np.float64)).reshape(w.shape)


def _nf4_values(w: QuantizedTensor) -> torch.Tensor:
    blocks = w.data.reshape(-1, 36)
    factors = np.frombuffer(blocks[:, :4].tobytes(), np.float32)
    codes = np.stack([blocks[:, 4:] >> 4, blocks[:, 4:] & 15], axis=-1).reshape(-1, 64)
    values = np.array(NF4_VALUES)[codes] * factors[:, None].astype(np.float64)
    return torch.from_numpy(values).reshape(w.shape)


def _random_blocks(block: BlockType, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    weights = int(np.prod(shape))
    blocks = generator.integers(0, 256, (weights // block.block_weights, block.block_bytes), dtype=np.uint8)
    scales = generator.uniform(0.02, 0.04, len(blocks)).astype(np.float16)
    if block.name == "IQ1_M":
        words = blocks[:, IQ1_M_SCALES_OFFSET:].view(np.uint16)
        bits = scales.view(np.uint16)
        for word in range(4):
            words[:, word] = (words[:, word] & 0x0FFF) | ((bits >> (4 * word)) & 0xF) << 12
    else:
        offset = SCALE_OFFSETS[block.name]
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def _placed(block: BlockType, shape: tuple[int, ...], data: np.ndarray) -> QuantizedTensor:
    memory = np.zeros(data.size + 128, dtype=np.uint8)
    start = -memory.ctypes.data % 64 + 32
    memory[start : start + data.size] = data
    memory.setflags(write=False)
    return QuantizedTensor(block, shape, memory[start : start + data.size])
