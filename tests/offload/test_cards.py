"""Cards by name, and what is measured of those that are here."""

import pytest

from offload.cards import card_named, unnamed_card
from offload.machine import GIB
from offload.probe import measured_card
from offload.probe_cards import CardFacts
from quant.errors import RequestError


@pytest.mark.parametrize("name", ["RTX4090", "rtx 4090", "4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_has_many_spellings(name: str) -> None:
    card = card_named(name)
    assert (card.name, card.memory_bytes, card.read_bytes_per_s) == ("RTX4090", 24 * GIB, 1008e9)


def test_an_unknown_card_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"RTX4090.*H100"):
        card_named("Voodoo2")


def test_a_link_of_its_own_replaces_the_usual_one() -> None:
    assert card_named("H100").link_bytes_per_s == 50e9
    assert card_named("H100", 12e9).link_bytes_per_s == 12e9
    assert unnamed_card(16 * GIB, 3e9).link_bytes_per_s == 3e9


def test_a_measured_card_keeps_what_was_measured() -> None:
    card = measured_card(CardFacts(0, "NVIDIA H100 80GB HBM3", 85_000_000_000, 84_000_000_000, 2.5e12, 51e9))
    assert (card.memory_bytes, card.read_bytes_per_s, card.link_bytes_per_s) == (85_000_000_000, 2.5e12, 51e9)
