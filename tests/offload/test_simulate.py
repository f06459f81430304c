"""The replay: times that can be added up by hand, and the residency's own decisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from offload.dispatch import CardSpeeds, MachineSpeeds
from offload.simulate import Workplace, simulate
from offload.trace import RoutingTrace, read_trace
from quant.errors import RequestError

SLOT = 100
SPEEDS = MachineSpeeds(cpu_bytes_per_s=1000.0, drive_bytes_per_s=50.0, cpu_flops=1e9, drive_latency_s=0.0)
CARD = CardSpeeds(memory_bytes_per_s=10_000.0, link_bytes_per_s=1000.0, flops=1e9, handover_s=0.0)


def trace(*tokens: tuple[int, ...], prompt: int = 0, experts: int = 8) -> RoutingTrace:
    """One layer."""
    return RoutingTrace(tuple((token,) for token in tokens), experts, prompt)


def place(ram: int | None, cards: tuple[int, ...] = (), **other: float) -> Workplace:
    ram_bytes = None if ram is None else ram * SLOT
    speeds = replace(SPEEDS, cards=(CARD,) * len(cards))
    return replace(Workplace(speeds, ram_bytes, tuple(n * SLOT for n in cards), SLOT, SLOT), **other)


def test_misses_are_read_one_after_the_other_and_multiplied_as_they_come() -> None:
    found = simulate(trace((0, 1)), place(4))
    assert found.seconds == pytest.approx(2 + 2 + 0.1), "two reads, and the last one's arithmetic"
    assert found.hits == {"RAM": 0, "drive": 2}
    assert found.nbytes["drive"] == 200
    assert found.stall_s == pytest.approx(2 + 1.9), "the first one's arithmetic is under the second one's read"


def test_hits_run_while_misses_are_read() -> None:
    found = simulate(trace((0, 1), (0, 2)), place(4, layer_s=0.5, token_s=0.25))
    second = 0.5 + 0.1 + 1.9 + 0.1 + 0.25
    assert found.token_seconds[1] == pytest.approx(second)
    assert found.hits == {"RAM": 1, "drive": 3}
    assert found.tokens_per_s == pytest.approx(2 / (0.5 + 4.1 + 0.25 + second))


def test_mapped_memory_has_no_misses() -> None:
    found = simulate(trace((0, 1), (2, 3)), place(None))
    assert found.hit_rate == 1.0
    assert found.seconds == pytest.approx(0.4)


def test_fewer_slots_than_a_token_needs_are_enough() -> None:
    found = simulate(trace((0, 1, 2, 3)), place(1))
    assert found.hits["drive"] == 4
    assert found.seconds == pytest.approx(4 * 2 + 4 * 0.1), "nothing is read while the only slot is in use"


def test_a_budget_without_a_slot_is_refused() -> None:
    with pytest.raises(RequestError, match="needed"):
        simulate(trace((0, 1)), place(0))


def test_a_card_gets_what_is_used_and_multiplies_beside_the_processor() -> None:
    tokens = [(0, 1)] * 6
    found = simulate(trace(*tokens), place(None, (1,), link_share=1.0, layer_s=1.0))
    assert found.promotions == 1
    assert found.hits["card 0"] == 4, "it is copied beside the second token, and used from the third on"
    assert found.token_seconds[0] == pytest.approx(1.2)
    assert found.token_seconds[-1] == pytest.approx(1.1), "the card's expert is done before the processor's"
    virtual = simulate(trace(*tokens), place(None, (1,), link_share=1.0, layer_s=1.0, cards_are_virtual=True))
    assert virtual.token_seconds[-1] == pytest.approx(1.11), "one after the other"


def test_promotions_stay_within_the_links_time() -> None:
    tokens = [tuple((3 * token + expert) % 8 for expert in range(4)) for token in range(40)]
    for share in (0.02, 0.1, 0.5):
        found = simulate(trace(*tokens), place(None, (4,), link_share=share, layer_s=1.0))
        assert found.promotions <= found.budget_promotions + 1
    assert simulate(trace(*tokens), place(None, (4,), link_share=0.0, layer_s=1.0)).promotions == 0


def test_ram_and_a_card_hold_different_experts_where_neither_holds_all() -> None:
    tokens = [(0, 1), (2, 3)] * 20
    alone = simulate(trace(*tokens), place(3))
    together = simulate(trace(*tokens), place(3, (1,), link_share=1.0, layer_s=1.0))
    assert alone.hits["drive"] > 20
    assert together.hits["drive"] == 5, "once they were read and one was copied, all four are somewhere"


def test_a_prompt_is_not_counted_but_remembered() -> None:
    prompt, answer = [(0, 1)] * 10, [(2, 3), (4, 5), (0, 1)]
    found = simulate(trace(*prompt, *answer, prompt=10), place(4))
    assert found.tokens == 3


def test_memory_that_was_warmed_up_misses_less(shared_data: Path) -> None:
    recording = read_trace(shared_data / "traces" / "kimi-linear-48b.jsonl")
    ram = int(0.9 * recording.layers * recording.experts)
    cold, warm = (simulate(recording, place(ram, warm=warm)).hit_rate for warm in (False, True))
    assert warm > 0.97 > cold


def test_a_layer_may_stand_for_several() -> None:
    one = simulate(trace((0, 1)), place(4, layer_s=0.5))
    three = simulate(trace((0, 1)), place(4, layer_s=0.5, layer_scale=3.0))
    assert three.seconds == pytest.approx(3 * one.seconds)


def test_the_policy_finds_what_the_benchmark_says(shared_data: Path) -> None:
    recording = read_trace(shared_data / "traces" / "kimi-linear-48b.jsonl")
    ram = recording.layers * recording.experts // 4
    assert simulate(recording, place(ram)).hit_rate == pytest.approx(0.742, abs=0.01)
