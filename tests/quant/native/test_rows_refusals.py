"""What the product of rows does not take is refused before a pointer is touched."""

import pytest

from quant.native_library import ISAS, load_native
from tests.quant.native.row_products import QUANTIZED

ADDRESS = 4096  # which no process owns
Q4_K, Q8_0, F16 = 12, 8, 1


@pytest.mark.parametrize(
    "arguments",
    [
        (Q4_K, None, 1, 256, ADDRESS, 1, 0, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, None, 1, 0, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, ADDRESS, 1, 0, None),
        (Q4_K, ADDRESS, 1, 255, ADDRESS, 1, 0, ADDRESS),
        (Q8_0, ADDRESS, 1, 48, ADDRESS, 1, 0, ADDRESS),
        (F16, ADDRESS, 1, 0, ADDRESS, 1, 0, ADDRESS),
        (F16, ADDRESS, 1, -1, ADDRESS, 1, 0, ADDRESS),
        (F16, ADDRESS, -1, 16, ADDRESS, 1, 0, ADDRESS),
        (F16, ADDRESS, 1, 16, ADDRESS, -1, 0, ADDRESS),
        (Q4_K, ADDRESS, 1 << 60, 256, ADDRESS, 1, 0, ADDRESS),
        (Q4_K, ADDRESS, 1, 1 << 60, ADDRESS, 1, 0, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, ADDRESS, 1 << 60, 0, ADDRESS),
        (Q4_K, ADDRESS, 1 << 30, 256, ADDRESS, 1 << 30, 0, ADDRESS),
        (99, ADDRESS, 1, 256, ADDRESS, 1, 0, ADDRESS),
    ],
)
def test_wrong_arguments(isa: str, arguments: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="k2quant_multiply does not take"):
        load_native().call("k2quant_multiply", *arguments)


@pytest.mark.parametrize("block", QUANTIZED, ids=str)
def test_a_row_that_is_no_whole_number_of_blocks(isa: str, block: object) -> None:
    for cols in (1, block.block_weights - 1, block.block_weights + 16):  # type: ignore[attr-defined]
        arguments = (block.ggml_id, ADDRESS, 1, cols, ADDRESS, 1, 0, ADDRESS)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="k2quant_multiply does not take"):
            load_native().call("k2quant_multiply", *arguments)


@pytest.mark.parametrize("arguments", [(None, ADDRESS, 1), (ADDRESS, None, 1), (ADDRESS, ADDRESS, -1)])
def test_wrong_arguments_of_the_gate(isa: str, arguments: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="k2quant_gated does not take"):
        load_native().call("k2quant_gated", *arguments)


def test_unknown_types_and_instruction_sets_are_not_served() -> None:
    serves = load_native()._functions["k2quant_serves"]
    assert not any(serves(isa, 99) for isa in ISAS.values())
    assert not any(serves(isa, Q4_K) for isa in (-1, 99))
    assert serves(ISAS["portable"], Q4_K) == 1


def test_an_instruction_set_that_is_none_is_refused() -> None:
    multiply = load_native()._functions["k2quant_multiply"]
    assert multiply(99, Q4_K, ADDRESS, 1, 256, ADDRESS, 1, 0, ADDRESS) == 1
