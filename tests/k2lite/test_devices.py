"""Cards that a user names, and options that cannot take effect."""

import pytest

from k2lite.devices import limit_cards, parse_devices
from k2lite.engine_options import EngineOptions
from offload.memory_options import CardSpec
from quant.errors import RequestError


def test_virtual_cards_have_a_number_and_a_size() -> None:
    assert parse_devices("virtual:4x256M") == tuple(CardSpec("virtual", 256 << 20, number) for number in range(4))
    assert parse_devices("virtual:1G") == (CardSpec("virtual", 1 << 30),)


@pytest.mark.parametrize(
    "text",
    ["cuda:", "cuda:x", "cuda:0,", "cpu", "virtual", "virtual:", "virtual:0x1G", "virtual:2x", "virtual:99x1G", ""],
)
def test_what_names_no_cards_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"virtual:NxSIZE|must be 1 to|is not a size"):
        parse_devices(text)


def test_real_cards_are_named_by_number() -> None:
    assert parse_devices("cuda") == (CardSpec("cuda", None, None),)
    assert parse_devices("cuda:0,2") == (CardSpec("cuda", None, 0), CardSpec("cuda", None, 2))
    assert limit_cards(parse_devices("cuda"), 5) == (CardSpec("cuda", 5, None),)
    with pytest.raises(ValueError, match="names a card twice"):
        parse_devices("cuda:1,1")


def test_a_budget_makes_cards_smaller_or_is_refused() -> None:
    cards = parse_devices("virtual:2x1G")
    assert limit_cards(cards, 1 << 20) == tuple(CardSpec("virtual", 1 << 20, number) for number in range(2))
    with pytest.raises(ValueError, match="has no effect on"):
        limit_cards(cards, 1 << 30)


def test_options_refuse_what_has_no_effect() -> None:
    with pytest.raises(RequestError, match="--vram-budget has no effect without cards"):
        EngineOptions(vram_budget_bytes=5)
    with pytest.raises(RequestError, match="ram_budget_bytes is 0"):
        EngineOptions(ram_budget_bytes=0)
    with pytest.raises(RequestError, match="names no devices"):
        EngineOptions(devices="toaster")
    memory = EngineOptions(devices="virtual:2x1M", vram_budget_bytes=1000, ram_budget_bytes=7, mirror="m").memory
    assert memory.cards == tuple(CardSpec("virtual", 1000, number) for number in range(2))
    assert (memory.ram_budget_bytes, str(memory.mirror)) == (7, "m")
