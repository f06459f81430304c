"""NF4 on cards: bitsandbytes' products, on the processor's memory, beside float64 ones of what is decoded here."""

import numpy as np
import pytest
import torch

from quant.encode.decode import dequantize
from quant.errors import UnsupportedError
from quant.kernels.card import CardTensor, make_card_kernels, upload
from quant.kernels.card_nf4 import CardNf4
from quant.nf4.values import NF4, apart, encode_nf4, put_together, set_apart, to_blocks
from quant.tensor import QuantizedTensor
from tests.quant.kernels.card_samples import random, relative_error

CPU = torch.device("cpu")


def sample(*shape: int) -> QuantizedTensor:
    codes, factors = encode_nf4(torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1])))
    data = np.empty(NF4.nbytes(shape), np.uint8)
    to_blocks(codes, factors, data)
    return QuantizedTensor(NF4, shape, data)


@pytest.fixture(scope="module")
def kernels() -> CardNf4:
    pytest.importorskip("bitsandbytes")
    return CardNf4(make_card_kernels("reference"))


@pytest.mark.parametrize(("rows", "cols"), [(33, 64), (256, 128), (128, 128)])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_linear(kernels: CardNf4, rows: int, cols: int, tokens: int) -> None:
    w = sample(rows, cols)
    x = random(tokens, cols, device=CPU)
    found = kernels.linear(x, upload(w, CPU))
    assert found.dtype == torch.float32
    assert relative_error(found, x.double() @ dequantize(w).double().T) < 1e-6


def test_heads_and_rows(kernels: CardNf4) -> None:
    w = sample(4, 96, 64)
    x = random(5, 4, 64, device=CPU)
    plain = dequantize(w).view(w.shape).double()
    found = kernels.linear_heads(x, upload(w, CPU))
    assert relative_error(found, torch.einsum("thc,hrc->thr", x.double(), plain)) < 1e-6
    ids = torch.tensor([200, 3, 3, 0])
    matrix = CardTensor(NF4, (384, 64), upload(w, CPU).data)
    assert torch.equal(kernels.rows(matrix, ids), plain.view(-1, 64)[ids].float())


def test_other_types_go_to_the_other_kernels(kernels: CardNf4) -> None:
    from tests.quant.kernels.card_samples import sample as of_blocks

    w, exact = of_blocks("Q8_0", (5, 64), CPU)
    x = random(2, 64, device=CPU)
    assert kernels.serves(NF4) and kernels.serves(w.type)
    assert relative_error(kernels.linear(x, w), x.double() @ exact.T) < 1e-6
    with pytest.raises(UnsupportedError):
        make_card_kernels("reference").linear(x, upload(sample(5, 64), CPU))


def test_blocks_are_the_same_bytes_apart() -> None:
    w = sample(3, 128)
    data = set_apart(torch.from_numpy(w.data))
    factors, codes = apart(data)
    assert codes.data_ptr() == data.data_ptr()
    assert np.array_equal(put_together(data).numpy(), w.data)
    blocks = w.data.reshape(-1, NF4.block_bytes)
    assert factors.tolist() == np.ascontiguousarray(blocks[:, :4]).view(np.float32).flatten().tolist()
    assert np.array_equal(codes.numpy(), blocks[:, 4:].flatten())


def test_without_bitsandbytes_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UnsupportedError, match="NF4 on cards needs bitsandbytes"):
        CardNf4(make_card_kernels("reference"))
