"""The tensors in which bitsandbytes stores one NF4 matrix, as one run of bytes of a length known beforehand.

Beside `X.weight` (the codes) lie `X.weight.absmax`, `X.weight.quant_map` and, as JSON in bytes,
`X.weight.quant_state.bitsandbytes__nf4`; with double quantization also the factors and the table of absmax.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quant.checkpoint.safetensors_layout import StoredPart
from quant.nf4.nested import NESTED_BLOCK, NestedFactors, dynamic_table, nest_factors
from quant.nf4.values import BLOCK, decode_nf4, encode_nf4, nf4_table

STATE_SUFFIX = ".quant_state.bitsandbytes__nf4"

# Readers cast what they decode to this type: the one that K2 computes in.
_DTYPE = "bfloat16"
# Tensors that follow begin where any type may lie.
_ALIGNMENT = 8
_LONGEST_NUMBER = "-1.2345678901234567e-300"


def stored_parts(shape: tuple[int, ...], double_quant: bool) -> list[StoredPart]:
    """What is stored of a matrix, in order: four-byte numbers first, so that each lies where its type may."""
    count = math.prod(shape)
    blocks, codes = -(-count // BLOCK), -(-count // 2)
    parts = [_floats(".quant_map", 16)]
    if double_quant:
        nested = -(-blocks // NESTED_BLOCK)
        parts += [_floats(".nested_absmax", nested), _floats(".nested_quant_map", 256)]
        factors = StoredPart(".absmax", "U8", (blocks,), blocks)
    else:
        factors = _floats(".absmax", blocks)
    parts += [factors, StoredPart("", "U8", (codes, 1), codes)]
    state_bytes = len(_state(shape, _LONGEST_NUMBER if double_quant else None))
    state_bytes += -(sum(part.nbytes for part in parts) + state_bytes) % _ALIGNMENT
    return [*parts, StoredPart(STATE_SUFFIX, "U8", (state_bytes,), state_bytes)]


@dataclass(frozen=True)
class Nf4Codec:
    """Writes a matrix as all of its stored parts. See quant.convert.codec.Codec.

    A weight's place in them depends on the whole matrix, so rows cannot be encoded in runs.
    """

    double_quant: bool = False
    name: str = "NF4"
    splits_rows: bool = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in stored_parts(shape, self.double_quant))

    def encode(self, rows: Tensor, importance: Tensor | None) -> np.ndarray:
        """See Codec. There is nothing to choose in NF4, so `importance` does not matter."""
        codes, factors = encode_nf4(rows)
        content = {"": codes, ".quant_map": nf4_table().numpy(), ".absmax": factors}
        offset = None
        if self.double_quant:
            nested = nest_factors(factors)
            content |= {".absmax": nested.codes, ".nested_absmax": nested.factors, ".nested_quant_map": nested.table}
            offset = repr(nested.offset)
        parts = stored_parts(tuple(rows.shape), self.double_quant)
        state = _state(tuple(rows.shape), offset).ljust(parts[-1].nbytes)
        content[STATE_SUFFIX] = np.frombuffer(state, np.uint8)
        return np.concatenate([content[part.suffix].view(np.uint8) for part in parts])

    def decode(self, data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """See Codec."""
        content, start = {}, 0
        for part in stored_parts(shape, self.double_quant):
            content[part.suffix] = data[start : start + part.nbytes]
            start += part.nbytes
        if self.double_quant:
            offset = json.loads(bytes(content[STATE_SUFFIX]))["nested_offset"]
            nested = _as_floats(content[".nested_absmax"])
            factors = NestedFactors(content[".absmax"], nested, dynamic_table(), offset).decode()
        else:
            factors = _as_floats(content[".absmax"])
        return decode_nf4(content[""], factors, math.prod(shape)).view(shape)


def _floats(suffix: str, count: int) -> StoredPart:
    return StoredPart(suffix, "F32", (count,), 4 * count)


def _as_floats(data: np.ndarray) -> np.ndarray:
    return np.frombuffer(data.tobytes(), np.float32)


def _state(shape: tuple[int, ...], nested_offset: str | None) -> bytes:
    """What is no tensor, as JSON. Spaces may follow it."""
    fields = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": _DTYPE, "shape": list(shape)}
    if nested_offset is not None:
        fields |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": float(nested_offset)}
    return json.dumps(fields).encode()
