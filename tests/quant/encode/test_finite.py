"""Finite or not, for every bit pattern of the 16-bit types."""

import pytest
import torch

from quant.encode.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits_is_judged_as_torch_does(dtype: torch.dtype) -> None:
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    finite = torch.isfinite(numbers)
    assert all_finite(numbers[finite])
    assert not any(all_finite(number.view(1)) for number in numbers[~finite])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 7, 1000])
def test_one_bad_number_among_many_is_seen(dtype: torch.dtype, bad: float, place: int) -> None:
    values = torch.full((1001,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(values) and all_finite(-values)
    values[place] = bad
    assert not all_finite(values)


def test_nothing_is_finite() -> None:
    assert all_finite(torch.empty(0)) and all_finite(torch.empty(0, 3, dtype=torch.float16))
