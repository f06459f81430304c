"""Wherever experts are, the answer is the same to the last bit."""

import random
from pathlib import Path

import pytest
import torch

from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from offload.residency import DRIVE, RAM
from quant.recipe.type_overrides import TypeOverride
from tests.offload.tiny_models import Setting, TinyModel
from tests.tiny import write_checkpoint


def check(model: TinyModel, settings: list[Setting], prompt_tokens: int, tokens: int) -> None:
    prompt = model.prompt(prompt_tokens)
    expected, logits = model.greedy(prompt, tokens)
    for setting in settings:
        with model.placed(setting):
            found, found_logits = model.greedy(prompt, tokens)
        assert found == expected, setting
        assert torch.equal(found_logits, logits), setting


def named_settings(model: TinyModel) -> list[Setting]:
    smallest, total = model.layout.smallest_budget_bytes, model.layout.total_bytes
    return [
        Setting(smallest),
        Setting(total // 4),
        Setting(total),
        Setting(total // 3, (total // 5,)),
        Setting(smallest, (smallest, total // 2)),
        Setting(None, (total // 4, total // 4)),
    ]


@pytest.mark.parametrize("which", ["demo", "k2"])
def test_paged_virtual_and_mixed_runs_answer_as_the_mapped_one(which: str, request: pytest.FixtureRequest) -> None:
    model: TinyModel = request.getfixturevalue(which)
    check(model, named_settings(model), prompt_tokens=50, tokens=40)


def test_layer_by_layer_they_answer_and_count_alike_too(k2: TinyModel) -> None:
    prompt = k2.prompt(30)
    expected, logits = k2.greedy(prompt, 30)
    for setting in named_settings(k2):
        counted = []
        for direct in (True, False):
            with k2.placed(setting) as experts:
                assert k2.model._direct is not None
                if not direct:
                    k2.model._direct = None
                found, found_logits = k2.greedy(prompt, 30)
                experts.settle()
                counted.append(experts.state())
            assert found == expected and torch.equal(found_logits, logits), setting
        one, other = counted
        assert (one.scores, one.used) == (other.scores, other.used)
        hits = [sum(tier.hits for tier in state.tiers) for state in counted]
        assert hits[0] == hits[1]


@pytest.mark.parametrize("which", ["shexp", pytest.param("exps", marks=pytest.mark.slow)])
def test_types_that_the_native_kernels_lack_answer_alike_too(which: str, tmp_path: Path) -> None:
    """A shared expert, or all the others, of such a type: what looks experts up natively must not take them along."""
    write_checkpoint(tmp_path / "k2", "k2", layers=3, experts=8)
    overrides = (TypeOverride.parse(f"ffn_.*_{which}=Q5_1"),)
    quantize(tmp_path / "k2", tmp_path / "k2.gguf", QuantizeOptions("Q8_0", overrides=overrides), threads=2)
    model = TinyModel(tmp_path / "k2.gguf")
    try:
        assert model.model._direct is None
        check(model, named_settings(model), prompt_tokens=10, tokens=8)
    finally:
        model.close()


@pytest.mark.parametrize("budget_share", [0.3, 0.6, 1.0])
def test_the_records_say_who_is_where(budget_share: float, k2: TinyModel) -> None:
    total, smallest = k2.layout.total_bytes, k2.layout.smallest_budget_bytes
    slots = int(budget_share * total)
    settings = [Setting(slots), Setting(slots, (total // 5,)), Setting(None, (smallest,))]
    for setting in settings:
        with k2.placed(setting) as experts:
            for tokens in (1, 9, 1):
                k2.greedy(k2.prompt(tokens), 5)
                experts.settle()
                for layer, records in experts.records().items():
                    for expert in range(records.count):
                        in_ram = experts._tiers.residency.place((layer, expert)) == RAM
                        assert records.has([expert]) == in_ram
                        assert bool(records.rows["gate"][expert]) == in_ram
                        if in_ram:
                            weights = experts._tiers.ram.weights((layer, expert))
                            assert records.rows[expert].tobytes() == weights.record


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("which", ["demo", "k2"])
def test_a_hundred_random_settings_answer_alike_over_256_tokens(which: str, request: pytest.FixtureRequest) -> None:
    model: TinyModel = request.getfixturevalue(which)
    rng = random.Random(5)
    check(model, [model.random_setting(rng) for _ in range(100)], prompt_tokens=90, tokens=256)


@pytest.mark.parametrize("kernels", [pytest.param("reference", marks=pytest.mark.slow), "ggml"])
def test_other_kernels_answer_alike_too(kernels: str, k2_file: Path) -> None:
    model = TinyModel(k2_file, kernels)
    try:
        check(model, named_settings(model)[:4], prompt_tokens=20, tokens=6)
    finally:
        model.close()


def test_both_copies_of_a_mirrored_file_are_read(k2: TinyModel, k2_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(k2_file.read_bytes())
    check(k2, [Setting(k2.layout.total_bytes // 3, mirror=copy)], prompt_tokens=30, tokens=30)


def test_every_place_was_really_used(k2: TinyModel) -> None:
    total = k2.layout.total_bytes
    with k2.placed(Setting(total // 4, (total // 6, total // 6))) as experts:
        k2.greedy(k2.prompt(30), 60)
        counters, state = experts.counters(), experts.state()
    assert all(counters[f"{tier}_experts"] > 0 for tier in ("ram", "drive", "card0", "card1"))
    places = "".join(state.places.values())
    assert set(places) == {".", "r", "0", "1"}
    assert state.promotions > 0 and state.evictions > 0
    assert {tier.name for tier in state.tiers} == {"card 0", "card 1", "RAM", "drive"}
    assert all(tier.used_bytes <= tier.capacity_bytes for tier in state.tiers)


def test_each_missing_expert_of_a_chunk_is_read_once(k2: TinyModel) -> None:
    total = k2.layout.total_bytes
    with k2.placed(Setting(total // 3)) as experts:
        residency = experts._tiers.residency
        chunk = k2.prompt(64)
        cache = k2.model.new_cache(256)
        k2.model.forward(chunk, cache)
        missing = sum(residency.place(key) == DRIVE for key in keys(k2))
        before = experts._tiers.ram.reader_state()
        k2.model.forward(chunk, cache)
        after = experts._tiers.ram.reader_state()
        assert before is not None and after is not None
        # On top comes what makes room at first, in each size, and has to be read again.
        assert missing <= after.reads - before.reads <= missing + 8 * len(residency.ram.slots)
        in_ram = sum(residency.place(key) == RAM for key in keys(k2))
        assert in_ram == len(keys(k2)) - missing


def test_a_long_chunk_takes_the_place_of_experts_and_gives_it_back(k2: TinyModel) -> None:
    prompt = k2.prompt(64)
    expected, _ = k2.greedy(prompt, 20)
    with k2.placed(Setting(k2.layout.total_bytes // 2)) as experts:
        experts._bytes_of_chunk = lambda tokens: max(0, tokens - 16) * 10_000
        ram = experts._tiers.residency.ram
        k2.model.forward(prompt, k2.model.new_cache(64))
        assert ram.used_bytes <= ram.capacity_bytes - 48 * 10_000
        assert k2.greedy(prompt, 20)[0] == expected
        assert ram.used_bytes > ram.capacity_bytes - 48 * 10_000


def keys(model: TinyModel) -> list[tuple[int, int]]:
    return [(layer, expert) for layer, count in model.layout.counts.items() for expert in range(count)]
