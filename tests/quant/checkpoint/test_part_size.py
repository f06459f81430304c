"""Parts are of one size whatever the tensor's shape, and begin where blocks of FP8 factors do."""

import pytest

from quant.checkpoint.part_size import PART_WEIGHTS, rows_in_part


@pytest.mark.parametrize(("rows", "cols"), [(2048, 7168), (7168, 2048), (1, 7168), (163840, 64), (32768, 512)])
def test_what_fits_is_one_part(rows: int, cols: int) -> None:
    assert rows_in_part(rows, cols) == rows


@pytest.mark.parametrize(("rows", "cols"), [(163840, 7168), (7168, 8192), (18432, 7168), (12288, 1536), (24576, 1536)])
def test_larger_matrices_are_cut_at_multiples_of_128_rows(rows: int, cols: int) -> None:
    part = rows_in_part(rows, cols)
    assert part < rows and part % 128 == 0
    assert PART_WEIGHTS - 128 * cols < part * cols <= PART_WEIGHTS


def test_very_long_rows_are_taken_128_at_a_time_or_all() -> None:
    assert rows_in_part(1000, 1 << 20) == 128
    assert rows_in_part(100, 1 << 20) == 100
