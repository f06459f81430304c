"""The cost model: who multiplies what."""

import pytest

from offload.dispatch import (
    CardSpeeds,
    ExpertWork,
    MachineSpeeds,
    MeasuredSpeeds,
    Way,
    dispatch,
    expected_share,
    promotions_allowed,
    streaming_tokens,
)
from offload.residency import DRIVE, RAM

EXPERT_BYTES, EXPERT_WEIGHTS = 24_772_608, 44_040_192  # Kimi K2 at 4.5 bits
CARD = CardSpeeds(memory_bytes_per_s=800e9, link_bytes_per_s=25e9, flops=100e12)
SERVER = MachineSpeeds(cpu_bytes_per_s=240e9, drive_bytes_per_s=7e9, cpu_flops=3e12, cards=(CARD,))


def work(expert: int, place: int, tokens: int = 1) -> ExpertWork:
    return ExpertWork((0, expert), place, EXPERT_BYTES, EXPERT_WEIGHTS, tokens)


def ways(*works: ExpertWork, speeds: MachineSpeeds = SERVER) -> list[Way]:
    result = dispatch(works, speeds)
    return [result.ways[w.key][0] for w in works]


def test_at_one_token_each_expert_is_multiplied_where_it_lies():
    assert ways(work(0, 0), work(1, RAM), work(2, DRIVE)) == [Way.CARD, Way.CPU, Way.READ]


def test_many_tokens_are_worth_the_copy_to_a_card():
    assert ways(work(0, RAM, 512), work(1, DRIVE, 512)) == [Way.COPY, Way.READ_COPY]
    assert ways(work(0, RAM, 512), speeds=MachineSpeeds(240e9, 7e9, 3e12)) == [Way.CPU]


def test_beside_a_slow_processor_a_copy_wins_even_for_one_token():
    slow = MachineSpeeds(cpu_bytes_per_s=5e9, drive_bytes_per_s=7e9, cpu_flops=50e9, cards=(CARD,))
    assert Way.COPY in ways(*(work(i, RAM) for i in range(8)), speeds=slow)


def test_cpu_and_link_share_when_neither_alone_is_best():
    chosen = ways(*(work(i, RAM, 40) for i in range(16)))
    assert {Way.CPU, Way.COPY} == set(chosen)
    result = dispatch([work(i, RAM, 40) for i in range(16)], SERVER)
    cpu_only = dispatch([work(i, RAM, 40) for i in range(16)], SERVER, copies=False)
    assert result.seconds < cpu_only.seconds


def test_reads_of_a_layer_are_one_run_on_the_drive():
    one, three = dispatch([work(0, DRIVE)], SERVER), dispatch([work(i, DRIVE) for i in range(3)], SERVER)
    assert one.drive_s == pytest.approx(EXPERT_BYTES / 7e9 + SERVER.drive_latency_s)
    assert three.drive_s == pytest.approx(3 * EXPERT_BYTES / 7e9 + SERVER.drive_latency_s)
    assert three.seconds == three.drive_s


def test_the_preferred_card_wins_a_draw():
    two = MachineSpeeds(240e9, 7e9, 3e12, cards=(CARD, CARD))
    for preferred in (0, 1):
        result = dispatch([work(0, RAM, 512)], two, preferred_card=preferred)
        assert result.ways[(0, 0)] == (Way.COPY, preferred)


def test_streaming_begins_where_most_of_a_layer_is_needed():
    assert expected_share(1, 8, 384) == pytest.approx(8 / 384)
    tokens = streaming_tokens(8, 384)
    assert expected_share(tokens, 8, 384) >= 0.5 > expected_share(tokens - 1, 8, 384)
    assert 32 <= tokens <= 34 and streaming_tokens(8, 8) == 1


def test_promotions_are_limited_by_time_on_the_link():
    # a quarter of the link in a 15 ms token: 3.75 ms, in which 25 GB/s bring 94 MB
    assert promotions_allowed(EXPERT_BYTES, 25e9, 0.015, 0.25) == pytest.approx(3.78, abs=0.01)


def test_speeds_follow_what_is_measured():
    measured = MeasuredSpeeds(SERVER)
    for _ in range(100):
        measured.drive(10_000_000, 0.01)
        measured.cpu(EXPERT_BYTES, EXPERT_BYTES / 100e9)
        measured.arithmetic(1e9, 1e-3)
        measured.link(0, EXPERT_BYTES, EXPERT_BYTES / 12e9)
    assert measured.speeds.drive_bytes_per_s == pytest.approx(1e9, rel=0.01)
    assert measured.speeds.cpu_bytes_per_s == pytest.approx(100e9, rel=0.01)
    assert measured.speeds.cpu_flops == pytest.approx(1e12, rel=0.01)
    assert measured.speeds.cards[0].link_bytes_per_s == pytest.approx(12e9, rel=0.01)
    measured.drive(0, 0.0)
    assert measured.speeds.drive_bytes_per_s == pytest.approx(1e9, rel=0.01)
