"""How weights are stored on disk in the three kinds of checkpoint, and what they are worth exactly.

Each function takes float32 values and returns the tensors to store (keyed by what follows the module's name)
and the float32 values that these stand for. The latter are computed from the definition of the format with
numpy, without any of the code under test, and serve as the oracle.
"""

import numpy as np
import torch
from torch import Tensor

FP8_BLOCK = 128
INT4_GROUP = 32

Stored = tuple[dict[str, Tensor], Tensor]


def store_bf16(values: Tensor) -> Stored:
    rounded = values.to(torch.bfloat16)
    return {".weight": rounded}, rounded.float()


def fp8_values() -> np.ndarray:
    """Value of each of the 256 e4m3fn codes, float32: 1 sign, 4 exponent (bias 7) and 3 mantissa bits."""
    table = np.empty(256, dtype=np.float32)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = (code >> 3) & 15, code & 7
        if exponent == 0:
            table[code] = sign * mantissa / 8 * 2.0**-6
        else:
            table[code] = sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    table[[0x7F, 0xFF]] = np.nan
    return table


def store_fp8(values: Tensor) -> Stored:
    """e4m3 codes with one float32 factor for each block of 128x128; the last blocks may be partial."""
    rows, cols = values.shape
    block_rows, block_cols = -(-rows // FP8_BLOCK), -(-cols // FP8_BLOCK)
    scale = np.empty((block_rows, block_cols), dtype=np.float32)
    codes = torch.empty(rows, cols, dtype=torch.float8_e4m3fn)
    exact = np.empty((rows, cols), dtype=np.float32)
    table = fp8_values()
    for i in range(block_rows):
        for j in range(block_cols):
            block = np.s_[i * FP8_BLOCK : (i + 1) * FP8_BLOCK, j * FP8_BLOCK : (j + 1) * FP8_BLOCK]
            scale[i, j] = values[block].abs().max().item() / 448
            codes[block] = (values[block] / scale[i, j].item()).to(torch.float8_e4m3fn)
            exact[block] = table[codes[block].view(torch.uint8).numpy()] * scale[i, j]
    return {".weight": codes, ".weight_scale_inv": torch.from_numpy(scale)}, torch.from_numpy(exact)


def store_int4(values: Tensor) -> Stored:
    """Groups of 32 along the row, 15 levels (-7..7), BF16 scales; eight nibbles a word, lowest first."""
    rows, cols = values.shape
    groups = values.view(rows, cols // INT4_GROUP, INT4_GROUP)
    scale = (groups.abs().amax(-1) / 7).to(torch.bfloat16)
    levels = (groups / scale.float().unsqueeze(-1)).round().clamp(-7, 7).to(torch.int8)
    words = np.zeros((rows, cols // 8), dtype=np.uint32)
    nibbles = (levels.numpy().reshape(rows, cols) + 8).astype(np.uint32)
    for i in range(8):
        words |= nibbles[:, i::8] << np.uint32(4 * i)
    stored = {
        ".weight_packed": torch.from_numpy(words.view(np.int32)),
        ".weight_scale": scale,
        ".weight_shape": torch.tensor([rows, cols], dtype=torch.int32),
    }
    exact = levels.numpy().astype(np.float32) * scale.float().numpy()[:, :, None]
    return stored, torch.from_numpy(exact.reshape(rows, cols))
