"""Numbers of metadata: as small as they are stored, and Python's own when they are taken out."""

import numpy as np
import pytest

from quant.gguf.number_array import NumberArray


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [("<i1", [-1, 0, 127]), ("<u8", [2**64 - 1, 1]), ("<f4", [0.5, -2.0]), ("?", [True, False]), ("<i4", [])],
)
def test_numbers_come_out_as_pythons_own(dtype: str, numbers: list[object]) -> None:
    array = NumberArray(np.array(numbers, dtype))
    assert array == numbers
    assert list(array) == numbers
    assert [type(value) for value in array] == [type(value) for value in numbers]
    assert array[: len(numbers)] == numbers and type(array[:1]) is list
    assert array.nbytes == len(numbers) * np.dtype(dtype).itemsize


def test_long_arrays_keep_their_order() -> None:
    assert list(NumberArray(np.arange(10_000))) == list(range(10_000))


def test_it_is_a_sequence() -> None:
    array = NumberArray(np.array([3, 5, 5]))
    assert (len(array), array[1], array[-1], 5 in array, array.index(5)) == (3, 5, 5, True, 1)
    with pytest.raises(IndexError):
        array[3]


def test_other_numbers_are_not_equal() -> None:
    array = NumberArray(np.array([1, 2], "<i4"))
    assert array == NumberArray(np.array([1, 2], "<i4"))
    assert array not in ([1, 3], [1], [], "12", NumberArray(np.array([1, 2], "<i8")), NumberArray(np.array([1], "<i4")))
