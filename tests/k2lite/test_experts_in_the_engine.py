"""Budgets, cards and recordings through the engine and the command line."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import ExpertReport, Finished, Message, Request, Sampling, Token
from k2lite.expert_report import expert_report
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from offload.state import ExpertsState, TierState
from quant.errors import K2Error, RequestError, UnsupportedError
from tests.k2lite.cli.conftest import CommandLine, k2lite  # noqa: F401  # a fixture
from tests.k2lite.fakes import write_chat_checkpoint

NEVER = threading.Event()
QUESTION = Request(messages=(Message("user", "the quick brown fox"),), sampling=Sampling(temperature=0), max_tokens=12)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chat_checkpoint(tmp_path_factory.mktemp("experts") / "tiny", experts=32)
    quantize(folder, folder.parent / "tiny.gguf", QuantizeOptions("Q8_0"), threads=1)
    return folder.parent / "tiny.gguf"


def paged_budget(path: Path) -> int:
    """The smallest budget that is accepted, and a little more."""
    engine = LocalEngine(path, EngineOptions(ram_budget_bytes=1))
    with pytest.raises(RequestError, match=r"is too small: .*give --ram-budget (\d+) or more") as told:
        list(engine.load())
    return int(str(told.value).split("--ram-budget ")[1].split(" or")[0]) + 1_000_000


def events(path: Path, options: EngineOptions, stop: threading.Event = NEVER) -> Iterator[object]:
    engine = LocalEngine(path, options)
    list(engine.load())
    try:
        yield from engine.generate(QUESTION, stop)
    finally:
        engine.close()


def ids(found: list[object]) -> list[int | None]:
    return [event.id for event in found if isinstance(event, Token)]


def test_a_small_budget_gives_the_same_answer_and_tells_what_was_read(tiny_file: Path) -> None:
    whole = list(events(tiny_file, EngineOptions()))
    paged = list(events(tiny_file, EngineOptions(ram_budget_bytes=paged_budget(tiny_file))))
    assert ids(paged) == ids(whole)
    report, finished = paged[-2:]
    assert isinstance(report, ExpertReport) and isinstance(finished, Finished)
    assert finished.tiers["drive_experts"] > 0
    assert {tier.name for tier in report.tier_reports} == {"RAM", "drive"}
    assert set("".join(report.places)) == {"r", "."} and report.first_layer == 1
    assert all(len(layer) == 32 for layer in report.places + report.heat)
    mapped = whole[-2]
    assert isinstance(mapped, ExpertReport) and set("".join(mapped.places)) == {"r"}
    assert "9" in "".join(mapped.heat) and len(mapped.used[-1]) == 4


def test_a_stop_in_the_middle_of_a_chunk_ends_the_answer(tiny_file: Path) -> None:
    engine = LocalEngine(tiny_file, EngineOptions(ram_budget_bytes=paged_budget(tiny_file)))
    list(engine.load())
    stop = threading.Event()
    assert engine._loaded is not None
    experts = engine._loaded.model._experts
    forward, calls = experts.forward, []

    def stopping(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            stop.set()
        return forward(*arguments)  # type: ignore[arg-type]

    experts.forward = stopping  # type: ignore[method-assign,assignment]
    found = list(engine.generate(QUESTION, stop))
    assert isinstance(found[-1], Finished) and found[-1].reason == "cancelled" and not ids(found)
    experts.forward = forward  # type: ignore[method-assign]
    again = list(engine.generate(QUESTION, NEVER))
    assert ids(again) == ids(list(events(tiny_file, EngineOptions())))
    engine.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (EngineOptions(mirror="copy.gguf"), "--mirror has no effect"),
        (EngineOptions(devices="virtual:1x1k"), "card 0 has 1024 bytes"),
    ],
)
def test_what_has_no_effect_is_refused(tiny_file: Path, options: EngineOptions, told: str) -> None:
    with pytest.raises(K2Error, match=told):
        list(LocalEngine(tiny_file, options).load())


def test_folders_have_no_budgets(tmp_path: Path) -> None:
    folder = write_chat_checkpoint(tmp_path / "tiny")
    with pytest.raises(UnsupportedError, match="is a folder, whose weights are read into memory as a whole"):
        list(LocalEngine(folder, EngineOptions(ram_budget_bytes=10**9)).load())


def test_the_command_line_shows_tiers_and_records_routing(
    k2lite: CommandLine,  # noqa: F811
    tiny_file: Path,
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace.jsonl"
    arguments = ("run", tiny_file, "-p", "hello", "--temperature", 0, "-n", 6, "--ram-budget", paged_budget(tiny_file))
    output = k2lite(*arguments, "--record-routing", trace, "--devices", "virtual:2x300k", "--json")
    record = json.loads(output.out)
    assert output.status == 0
    assert record["experts"]["experts_on_drive"] > 0 and record["tiers"]["drive_bytes"] > 0
    assert "of 24 experts" in output.err or "experts, " in output.err
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["tok"] for line in lines] == list(range(len(lines))) and len(lines) == 5
    assert all(len(layer) == 4 and layer == sorted(layer) for line in lines for layer in line["layers"])
    again = k2lite(*arguments, "--record-routing", trace)
    assert again.status == 1 and "exists already" in again.err


def test_heat_is_relative_to_the_hottest() -> None:
    state = ExpertsState(
        places={3: "r.0"},
        scores={3: (9.0, 0.0, 0.01)},
        used={3: (0, 2)},
        tiers=(TierState("RAM", 10, 5, 2, 7, 0.5),),
    )
    report = expert_report(state)
    assert report is not None and report.first_layer == 3
    assert (report.places, report.heat, report.used) == (("r.0",), ("901",), ((0, 2),))
    assert report.tier_reports[0].bytes == 7
    assert expert_report(ExpertsState({}, {}, {}, ())) is None
