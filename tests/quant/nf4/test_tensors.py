"""One matrix as the tensors that bitsandbytes stores."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.nf4.tensors import STATE_SUFFIX, Nf4Codec, stored_parts

SHAPES = [(3, 64), (256, 384), (5, 544), (7, 2)]


def matrix(shape: tuple[int, int]) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
    return values * torch.linspace(0.1, 2, shape[0])[:, None]


def stored(data: np.ndarray, shape: tuple[int, int], double_quant: bool) -> dict[str, Tensor]:
    """The payload cut into tensors, as the header of a file describes them."""
    types = {"U8": torch.uint8, "F32": torch.float32}
    tensors, start = {}, 0
    for part in stored_parts(shape, double_quant):
        raw = torch.frombuffer(bytearray(data[start : start + part.nbytes].tobytes()), dtype=torch.uint8)
        tensors[part.suffix] = raw.view(types[part.dtype]).view(part.shape)
        start += part.nbytes
    assert start == data.size
    return tensors


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bitsandbytes_reads_what_we_decode(shape: tuple[int, int], double_quant: bool) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    codec = Nf4Codec(double_quant)
    data = codec.encode(matrix(shape), None)
    assert data.dtype == np.uint8
    assert data.shape == (codec.nbytes(shape),)
    tensors = stored(data, shape, double_quant)
    state = QuantState.from_dict(
        {suffix.removeprefix("."): tensor for suffix, tensor in tensors.items() if suffix}, torch.device("cpu")
    )
    assert (state.dtype, state.blocksize, state.shape) == (torch.bfloat16, 64, torch.Size(shape))
    # On the CPU bitsandbytes reads past the end of rows that end within a block; as one long row it reads them right.
    state.shape = torch.Size([1, shape[0] * shape[1]])
    decoded = codec.decode(data, shape)
    assert torch.equal(decoded.bfloat16(), dequantize_4bit(tensors[""], state).view(shape))
    state.dtype = torch.float32
    assert torch.equal(decoded, dequantize_4bit(tensors[""], state).view(shape))
    assert float((decoded - matrix(shape)).norm() / matrix(shape).norm()) < 0.12


@pytest.mark.parametrize("double_quant", [False, True])
def test_bitsandbytes_stores_the_same_tensors(double_quant: bool) -> None:
    from bitsandbytes.functional import quantize_4bit

    shape = (256, 384)
    packed, state = quantize_4bit(
        matrix(shape), blocksize=64, quant_type="nf4", compress_statistics=double_quant
    )
    theirs = {"": packed} | {f".{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    ours = stored(Nf4Codec(double_quant).encode(matrix(shape), None), shape, double_quant)
    assert ours.keys() == theirs.keys()
    states = [json.loads(bytes(tensors.pop(STATE_SUFFIX).numpy())) for tensors in (ours, theirs)]
    offsets = [state.pop("nested_offset", None) for state in states]
    assert states[0] == states[1] | {"dtype": "bfloat16"}
    assert offsets[0] == (pytest.approx(offsets[1], rel=1e-6) if double_quant else None)
    for suffix, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[suffix].dtype, theirs[suffix].shape), suffix
        if suffix in ("", ".quant_map", ".nested_quant_map") or not double_quant:
            assert torch.equal(tensor, theirs[suffix]), suffix


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_lie_where_their_type_may(shape: tuple[int, int], double_quant: bool) -> None:
    start = 0
    for part in stored_parts(shape, double_quant):
        assert part.dtype == "U8" or start % 4 == 0
        start += part.nbytes
    assert start % 8 == 0


def test_the_length_is_known_before_the_offset_is() -> None:
    shape = (2, 64)
    lengths = set()
    for scale in (1e-30, 1.0, 1 / 3, 1e30):
        data = Nf4Codec(double_quant=True).encode(torch.full(shape, scale), None)
        lengths.add(data.size)
        assert torch.equal(Nf4Codec(double_quant=True).decode(data, shape), torch.full(shape, scale))
    assert lengths == {Nf4Codec(double_quant=True).nbytes(shape)}
