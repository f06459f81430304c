"""Plans: everything has its place, nothing is lost, and speeds agree with the published arithmetic for Kimi K2."""

import math
from dataclasses import replace

import pytest

from offload.cards import card_named
from offload.hit_curve import nominal, pessimistic
from offload.machine import GIB, Machine
from offload.placement import place_layers, place_model
from offload.plan import Plan, Workload, make_plan, next_steps
from offload.roofline import Rates, Shares, layer_times
from tests.offload.samples import k2, machine

CONTEXT = 8192
# Described in the literature as a model: cards, share of all experts in them and in them with RAM, GB/s of RAM and
# drive; then tokens/s as nominal and pessimistic hit curve give them: hits first without look-ahead, and the same with
# kernels at 60 % of RAM and drives at 80 %.
PUBLISHED = [
    pytest.param(0.018, 0.31, 70, 10.5, (3.3, 2.0), (2.5, 1.6), id="1 card, 192 GB"),
    pytest.param(0.018, 0.31, 70, 17, (4.6, 3.0), (3.3, 2.4), id="1 card, 192 GB, two drives"),
    pytest.param(0.057, 0.46, 140, 12, (5.6, 3.3), (4.4, 2.6), id="2 cards, 256 GB"),
    pytest.param(0.135, 0.54, 220, 12, (7.2, 4.1), (5.7, 3.3), id="4 cards, 256 GB"),
    pytest.param(0.135, 0.98, 330, 12, (31, 23), (24, 17), id="4 cards, 512 GB"),
    pytest.param(0.29, 0.90, 330, 17, (28, 20), (23, 16), id="8 cards, 384 GB"),
    pytest.param(0.018, 1.0, 330, 1e9, (23, 21), (15, 14), id="1 card, 768 GB"),
    pytest.param(0.135, 1.0, 330, 1e9, (35, 28), (26, 19), id="4 cards, 768 GB"),
    pytest.param(0.29, 1.0, 330, 17, (39, 34), (33, 26), id="8 cards, 512 GB"),
]
TOLERANCE = 0.20
FIXED_S, EXPERT_BYTES, CARD_RATE = 0.0127, 24_772_608, 806e9


@pytest.mark.parametrize(("on_cards", "fast", "ram", "drive", "plain", "worn"), PUBLISHED)
def test_the_roofline_gives_the_published_projections(
    on_cards: float, fast: float, ram: float, drive: float, plain: tuple[float, float], worn: tuple[float, float]
) -> None:
    for wanted, ram_share, drive_share in ((plain, 1.0, 1.0), (worn, 0.6, 0.8)):
        rates = Rates(CARD_RATE, ram * 1e9 * ram_share, drive * 1e9 * drive_share)
        for curve, tokens_per_s in zip((nominal, pessimistic), wanted, strict=True):
            shares = Shares(curve(on_cards), curve(fast) - curve(on_cards), 1 - curve(fast))
            found = 1 / (FIXED_S + 60 * layer_times(shares, 8, EXPERT_BYTES, rates).mean_s)
            assert found == pytest.approx(tokens_per_s, rel=TOLERANCE)


def planned(cards: int, ram_gib: float, ram_gb_s: float = 330, drive: float | None = 12) -> Plan:
    return make_plan(machine(cards, ram_gib, ram_gb_s, drive), k2(), Workload.of_context(CONTEXT))


@pytest.mark.parametrize(
    ("cards", "ram_gib", "least", "most"),
    [(4, 512, 14, 31), (1, 192, 1.2, 3.7), (8, 384, 12, 31), (4, 256, 2.8, 7.2)],
)
def test_a_whole_plan_comes_out_between_the_published_columns(
    cards: int, ram_gib: float, least: float, most: float
) -> None:
    speeds = {(1, 192): (70, 10.5), (4, 256): (220, 12), (8, 384): (330, 17)}.get((cards, int(ram_gib)), (330, 12))
    plan = planned(cards, ram_gib, *speeds)
    assert plan.decode is not None
    assert least < plan.decode.bad.tokens_per_s < plan.decode.good.tokens_per_s < most


@pytest.mark.parametrize(("cards", "ram_gib"), [(0, 64), (1, 192), (4, 512), (10, 512), (4, 768), (40, 64)])
def test_every_expert_has_its_place_and_no_place_is_overfull(cards: int, ram_gib: float) -> None:
    model = k2()
    placement = place_model(machine(cards, ram_gib, 330, 12), model, CONTEXT)
    assert placement.fits
    assert all(place.free_bytes >= 0 for place in placement.places)
    kept = sum(place.expert_count for place in placement.places) + placement.drive_experts
    on_cards = sum(place.expert_count for place in placement.cards)
    assert kept == model.expert_count + (on_cards if placement.mapped else 0)
    resident = sum(place.resident_bytes for place in placement.places)
    assert resident == model.resident_bytes + model.embedding_bytes
    assert sum(place.layers for place in placement.places) == 61
    of_layer = model.cache_bytes * CONTEXT // 61
    assert all(place.cache_bytes == place.layers * of_layer // 2 for place in placement.cards)
    assert placement.ram.cache_bytes == placement.ram.layers * of_layer


def test_cards_and_ram_add_up_only_where_ram_cannot_hold_everything() -> None:
    assert not planned(4, 512).placement.mapped
    large = planned(4, 768).placement
    assert large.mapped
    assert large.ram.expert_count == k2().expert_count


def test_cards_with_room_to_spare_share_the_experts() -> None:
    counts = [place.expert_count for place in planned(40, 64).placement.cards]
    assert sum(counts) == k2().expert_count
    assert max(counts) < 1.2 * min(counts)


def test_what_is_missing_is_counted() -> None:
    plan = planned(0, 64, drive=None)
    assert not plan.placement.fits
    assert plan.decode is None
    assert plan.placement.missing_bytes == pytest.approx(plan.model.experts_bytes - 50e9, rel=0.05)
    enough = machine(0, 64 + plan.placement.missing_bytes * 8 / 7 / GIB, 330, None)
    assert make_plan(enough, k2(), plan.workload).placement.fits


def test_too_little_memory_for_the_resident_weights_is_missing_ram() -> None:
    placement = planned(0, 6).placement
    assert placement.missing_where == "RAM"
    short = placement.missing_bytes
    assert planned(0, 6 + short * 8 / 7 / GIB + 0.01).placement.fits


def test_the_next_step_is_the_memory_that_holds_the_rest() -> None:
    plan = planned(4, 384)
    best = next_steps(plan)[0]
    assert best.change == "RAM of 640 GiB"
    tried = make_plan(replace(plan.machine, ram_bytes=640 * GIB), plan.model, plan.workload)
    assert tried.decode == best.decode


def test_a_machine_that_cannot_run_is_told_what_makes_it() -> None:
    steps = next_steps(planned(0, 64, drive=None))
    assert any(step.change.startswith("a drive") and step.gain == math.inf for step in steps)


def test_a_long_context_takes_room_from_experts() -> None:
    short, long = (
        place_model(machine(4, 512, 330, 12), k2(), tokens).cards for tokens in (1024, 131072)
    )
    # 130,048 tokens of 576 numbers of 16 bits in 61 layers are 9.1 GB; an expert has 25 MB.
    cache, buffers, experts = (
        sum(getattr(place, what) for place in long) - sum(getattr(place, what) for place in short)
        for what in ("cache_bytes", "buffer_bytes", "expert_count")
    )
    assert cache == pytest.approx(9.14e9, rel=0.01)
    assert -experts == pytest.approx((cache + buffers) / 24_772_608, abs=4)
    # Buffers are for chunks of 16,384 tokens instead of 1,024 on each of the four cards.
    assert buffers / 4 > 15_360 * k2().buffers.token


def test_a_card_has_buffers_for_a_chunk_and_the_plan_says_how_long_that_is() -> None:
    buffers = k2().buffers
    for card, tokens in (("RTX4080", 8192), ("RTX4090", 16384), ("H100", 16384), ("RTX3080", 4096)):
        described = replace(machine(2, 512, 330, 12), cards=(card_named(card), card_named("H100")))
        placement = place_model(described, k2(), 65536)
        assert placement.chunk_tokens == tokens, card  # the smaller card decides
        assert [place.buffer_bytes for place in placement.cards] == [buffers.bytes_of(tokens, 65536)] * 2
    assert place_model(machine(4, 512, 330, 12), k2(), 6000).chunk_tokens == 8192  # no longer than the context needs
    assert place_model(machine(0, 512, 330, 12), k2(), 65536).chunk_tokens is None
    # A tenth of RAM has room for five vectors of a token and four more for each card.
    short = place_model(machine(4, 32, 330, 12), k2(), 65536)
    assert short.chunk_tokens == int(28 * GIB * 0.1) // (4 * 7168 * 21) // 512 * 512
    assert short.cards[0].buffer_bytes == buffers.bytes_of(16384, 65536)


def test_prefill_is_predicted_for_the_chunk_that_is_used() -> None:
    for cards, chunk in ((0, 4096), (4, 16384)):
        plan = make_plan(machine(cards, 512, 330, 12), k2(), Workload(65536, 4096, 60000))
        same = make_plan(machine(cards, 512, 330, 12), k2(), Workload(65536, 4096, chunk))
        less = make_plan(machine(cards, 512, 330, 12), k2(), Workload(65536, 4096, chunk // 2))
        assert plan.prefill == same.prefill != less.prefill


def test_virtual_cards_need_no_buffers() -> None:
    virtual = replace(card_named("RTX4090"), is_virtual=True)
    found = place_layers([virtual, virtual], k2(), 65536)
    assert found.chunk_tokens is None and found.sending == 0
    assert [place.buffer_bytes for place in found.places] == [0, 0]


def test_a_faster_place_never_slows_a_plan_down() -> None:
    base = machine(4, 384, 200, 7)
    drive = base.drive_bytes_per_s
    assert drive is not None
    faster: list[Machine] = [
        replace(base, ram_bytes=2 * base.ram_bytes),
        replace(base, ram_bytes_per_s=2 * base.ram_bytes_per_s),
        replace(base, drive_bytes_per_s=2 * drive),
        replace(base, cards=(*base.cards, base.cards[0])),
        replace(base, flops=2 * base.flops),
    ]
    before = make_plan(base, k2(), Workload.of_context(CONTEXT))
    for better in faster:
        after = make_plan(better, k2(), Workload.of_context(CONTEXT))
        for speed in ("decode", "prefill"):
            for case in ("good", "bad"):
                was, now = getattr(getattr(before, speed), case), getattr(getattr(after, speed), case)
                assert now.tokens_per_s >= 0.999 * was.tokens_per_s
