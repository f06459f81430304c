"""A source says which rows each part holds, and whatever it brings is checked."""

import numpy as np
import pytest
import torch

from quant.convert.source_tensor import SourceTensor


def source(shape: tuple[int, ...], part_rows: int) -> SourceTensor:
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(-1, shape[-1])
    parts = values.split(part_rows)
    exact = {"Q8_0": lambda part: np.zeros((len(parts[part]), 7), np.uint8)}
    return SourceTensor("a", shape, part_rows, lambda part: parts[part], exact)


@pytest.mark.parametrize(
    ("shape", "part_rows", "rows"),
    [
        ((5, 4), 2, [range(2), range(2, 4), range(4, 5)]),
        ((2, 3, 4), 3, [range(3), range(3, 6)]),
        ((7,), 1, [range(1)]),
        ((2, 4), 100, [range(2)]),
    ],
)
def test_parts_hold_all_rows_in_order(shape: tuple[int, ...], part_rows: int, rows: list[range]) -> None:
    tensor = source(shape, part_rows)
    assert [tensor.rows_of(part) for part in range(tensor.parts)] == rows
    values = torch.cat([tensor.read_rows(part) for part in range(tensor.parts)])
    assert values.shape == (tensor.rows, tensor.cols) and values.flatten().tolist() == list(range(tensor.weights))


def test_only_stacks_have_slabs() -> None:
    assert [source(shape, 1).slabs for shape in ((4,), (3, 4), (2, 3, 4))] == [1, 1, 2]


def test_parts_may_come_in_any_shape_with_the_same_rows() -> None:
    tensor = SourceTensor("a", (2, 3, 4), 3, lambda part: torch.ones(1, 3, 4))
    assert tensor.read_rows(1).shape == (3, 4)


@pytest.mark.parametrize(("shape", "part_rows"), [((), 1), ((3, 0), 1), ((3, 4), 0)])
def test_what_cannot_be_read_in_parts_is_a_bug(shape: tuple[int, ...], part_rows: int) -> None:
    with pytest.raises(ValueError, match="cannot be read in parts"):
        SourceTensor("a", shape, part_rows, lambda part: torch.zeros(1))


def test_exact_bytes_of_another_size_are_a_bug() -> None:
    tensor = source((5, 4), 2)
    assert tensor.read_exact(2, "Q8_0", 7).shape == (1, 7)
    with pytest.raises(ValueError, match=r"came as 14 bytes of Q8_0 \(uint8\) instead of 2 rows of 8"):
        tensor.read_exact(0, "Q8_0", 8)
