"""ggml's encoders, for every block type. They are stricter here than there: some write zeros for weights that are too
large, others end the process."""

import numpy as np
import torch
from torch.nn.functional import hardshrink

from quant.errors import EncodeError
from quant.ggml_library import load_ggml
from quant.types import BlockType

MXFP4_TINY = 2.0**-120  # below, ggml's block exponent wraps around and the values decode as huge ones


def encode_ggml(rows: torch.Tensor, block: BlockType, importance: torch.Tensor | None, out: np.ndarray) -> None:
    """Encode contiguous float32 `rows` [n, cols], which are in the type's range, into uint8 `out`.

    Raises EncodeError when a scale leaves the range of its half precision nevertheless.
    """
    library = load_ggml()
    if block.name == "MXFP4":
        rows = hardshrink(rows, MXFP4_TINY)
    library.call("ggml_quantize_chunk")(
        block.ggml_id,
        rows.data_ptr(),
        out.ctypes.data,
        0,
        *rows.shape,
        None if importance is None else importance.data_ptr(),
    )
    if not library.call("ggml_validate_row_data")(block.ggml_id, out.ctypes.data, out.nbytes):
        raise EncodeError(f"{block} cannot hold these weights (a block scale left its range): choose a wider type")


def needs_importance(block: BlockType) -> bool:
    """Whether the encoder of this type cannot work without an importance for each column."""
    return load_ggml().requires_importance(block)


def ggml_identity() -> str:
    """Changes with the version, and so whenever the same weights may give other bytes."""
    return f"ggml {load_ggml().version}"
