"""Cards: what is brought to them, how fast, and what becomes of copies that fail."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offload.dispatch import CardSpeeds, MachineSpeeds, MeasuredSpeeds
from offload.expert_layout import ExpertLayout
from offload.pool import Pool
from offload.residency import RAM, Residency
from offload.slots import ExpertKey, Slot

BYTES = 1000
LAYOUT = ExpertLayout({1: 8, 2: 8}, {1: BYTES, 2: BYTES}, 2)


class FakeCard:
    is_exact, sending = True, None

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory: dict[Slot, bytes] = {}
        self.broken = self.closed = False

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        if self.broken:
            raise RuntimeError("the card has fallen off the bus")
        self.memory[target] = source.tobytes()

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        target[:] = np.frombuffer(self.memory[source], np.uint8)

    def begin(self, x: Any, works: Sequence[Any]) -> Any:
        raise AssertionError("nobody multiplies here")

    def close(self) -> None:
        self.closed = True


class Machine:
    """RAM with `ram` slots and cards with `cards` slots each; every expert's bytes are its number."""

    def __init__(self, ram: int | None, cards: Sequence[int], link_bytes_per_s: float = 1e12) -> None:
        self.residency = Residency(LAYOUT, None if ram is None else ram * BYTES, [n * BYTES for n in cards])
        self.devices = [FakeCard(f"{number}") for number in range(len(cards))]
        speeds = MachineSpeeds(1e9, 1e9, 1e9, cards=(CardSpeeds(1e9, link_bytes_per_s, 1e9),) * len(cards))
        self.ram: dict[Slot, np.ndarray] = {}
        self.pool = Pool(self.devices, self.residency, MeasuredSpeeds(speeds), self.slot_bytes)

    def slot_bytes(self, key: tuple[int, int]) -> Any:
        slot = self.residency.ram.slot(key)
        content = np.full(BYTES, 16 * key[0] + key[1], np.uint8)
        self.ram.setdefault(slot, content)
        if not self.residency.is_arriving(key):
            self.ram[slot] = content
        return lambda: self.ram[slot]

    def bring(self, *keys: tuple[int, int]) -> None:
        for key in keys:
            assert self.residency.reserve(key) is not None
            self.residency.arrived(key)

    def token(self, *keys: tuple[int, int], seconds: float = 1.0) -> None:
        self.residency.advance()
        for key in keys:
            self.residency.use(key)
        self.pool.end_token(keys, seconds)
        self.pool.finish_moves()

    def places(self) -> dict[int, int]:
        return {expert: self.residency.place((1, expert)) for expert in range(8)}


def test_what_is_used_comes_to_its_layers_card() -> None:
    machine = Machine(None, [4, 4])
    machine.token((1, 0), (2, 3))
    machine.token((1, 0), (2, 3))
    assert machine.residency.place((1, 0)) == machine.pool.home(1) == 0
    assert machine.residency.place((2, 3)) == machine.pool.home(2) == 1
    slot = machine.residency.slot((2, 3))
    assert machine.devices[1].memory[slot] == bytes([35]) * BYTES
    machine.pool.close()
    assert all(device.closed for device in machine.devices)


def test_a_full_home_leaves_experts_to_the_other_card() -> None:
    machine = Machine(None, [1, 4])
    for _ in range(4):
        machine.token((1, 0), (1, 1))
    assert {machine.residency.place((1, 0)), machine.residency.place((1, 1))} == {0, 1}
    machine.pool.close()


def test_links_are_given_no_more_than_their_share_of_the_time() -> None:
    # One expert takes 1 ms; a quarter of a token's 8 ms is two experts.
    machine = Machine(None, [16], link_bytes_per_s=BYTES / 1e-3)
    machine.token(*((1, expert) for expert in range(8)), seconds=8e-3)
    assert machine.residency.promotions == 2
    slow = Machine(None, [16], link_bytes_per_s=BYTES / 1e-3)
    for _ in range(3):
        slow.token((1, 0), (1, 1), seconds=1e-3)  # a quarter of an expert each
    assert slow.residency.promotions == 0
    slow.token((1, 0), (1, 1), seconds=1e-3)
    assert slow.residency.promotions == 1
    machine.pool.close()
    slow.pool.close()


def test_exclusive_places_swap_over_time_and_bytes_follow() -> None:
    machine = Machine(3, [1])
    machine.bring((1, 0), (1, 1))
    for _ in range(3):
        machine.token((1, 0))
    assert machine.places()[0] == 0
    for _ in range(30):
        machine.token((1, 1))
    assert machine.places()[1] == 0 and machine.places()[0] == RAM
    assert machine.ram[machine.residency.slot((1, 0))][0] == 16
    machine.pool.close()


def test_a_copy_that_fails_is_told_and_the_expert_stays() -> None:
    machine = Machine(3, [1])
    machine.bring((1, 0))
    machine.devices[0].broken = True
    with pytest.raises(RuntimeError, match="fallen off the bus"):
        machine.token((1, 0))
    assert machine.places()[0] == RAM and machine.residency.cards[0].used_bytes == 0
    machine.devices[0].broken = False
    machine.token((1, 0))
    assert machine.places()[0] == 0
    machine.pool.close()


def test_without_cards_there_is_nothing_to_do() -> None:
    pool = Pool([], Residency(LAYOUT, None), MeasuredSpeeds(MachineSpeeds(1, 1, 1)), lambda key: SimpleNamespace)
    pool.end_token([(1, 0)], 1.0)
    pool.finish_moves()
    pool.close()
