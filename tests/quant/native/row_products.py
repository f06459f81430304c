"""Products of rows by the native kernels of one instruction set, in one thread, and what they are compared with."""

import torch
from torch import Tensor

from quant.kernels.ggml import GgmlKernels
from quant.native_library import ISAS, load_native
from quant.nf4.values import NF4
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type
from tests.quant.random_weights import exact_values

NAMES = ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0", "Q4_0", "Q5_0", "F32", "F16", "BF16", "NF4")
TYPES = tuple(NF4 if name == "NF4" else block_type(name) for name in NAMES)
QUANTIZED = tuple(block for block in TYPES if block.block_weights > 1 and block != NF4)


def by_name(block: BlockType) -> str:
    return block.name


def product(x: Tensor, w: QuantizedTensor, many: bool = False) -> Tensor:
    """x float32 [tokens, cols] @ w.T -> float32 [tokens, rows], with the instruction set that is in use."""
    x = x.contiguous()
    y = torch.full((x.shape[0], w.rows), torch.nan)
    arguments = (w.data.ctypes.data, w.rows, w.cols, x.data_ptr(), x.shape[0], int(many), y.data_ptr())
    assert load_native().call("k2quant_multiply", w.type.ggml_id, *arguments)
    return y


def exact_product(x: Tensor, w: QuantizedTensor) -> Tensor:
    """In float64."""
    return x.double() @ exact_values(w).T


def ggml_product(x: Tensor, w: QuantizedTensor) -> Tensor:
    kernels = GgmlKernels(threads=1)
    try:
        return kernels.linear(x, w)
    finally:
        kernels.close()


def relative_error(y: Tensor, exact: Tensor) -> float:
    """Root mean square of the error over that of the result; 0 where both are 0."""
    error, size = (y.double() - exact).norm().item(), exact.norm().item()
    return error / size if size else error


def serves(block: BlockType) -> bool:
    native = load_native()
    return bool(native._functions["k2quant_serves"](ISAS[native.isa], block.ggml_id))
