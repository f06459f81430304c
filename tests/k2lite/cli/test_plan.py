"""`k2lite plan`."""

import json
from pathlib import Path

import pytest

from k2lite.cli.machine_options import parse_cards
from k2lite.cli.options import UsageError
from offload import probe
from tests.k2lite.cli.conftest import CommandLine

SERVER = ("--gpus", "4xRTX4090", "--ram", "512G", "--ram-bw", "330G/s", "--drive", "12G/s", "--flops", "3T/s")


def test_a_described_machine_needs_no_measuring(k2lite: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("probe_ram", "probe_drive", "probe_cards", "probe_arithmetic"):
        monkeypatch.delattr(probe, name)
    found = k2lite("plan", "k2", *SERVER)
    assert found.status == 0
    assert found.err == ""
    lines = found.out.splitlines()
    assert lines[0].startswith("k2 Q4_K_M: 578 GiB, of which 23,040 experts of 25.4 MiB; 8 of 384 used")
    assert "4 x RTX4090; 512 GiB RAM at 330 GB/s; drive 12 GB/s" in lines[1]
    assert sum(line.startswith("card ") for line in lines) == 4
    assert "a prompt goes to the cards in chunks of 8,192 tokens" in lines  # of the context
    assert any(line.startswith("decode ") and "tokens/s behind 4,096 tokens, limited by" in line for line in lines)
    assert any(line.startswith("  RAM of 640 GiB") for line in lines)


def test_json_has_the_same_in_bytes(k2lite: CommandLine) -> None:
    record = json.loads(k2lite("plan", "k2-thinking", *SERVER, "--ctx", "32k", "--json").out)
    assert record["fits"]
    assert record["workload"]["context_tokens"] == 32768
    assert record["chunk_tokens"] == 16384
    assert [place["name"] for place in record["places"]] == ["card 0", "card 1", "card 2", "card 3", "RAM"]
    assert record["decode"]["bad"]["tokens_per_s"] < record["decode"]["good"]["tokens_per_s"]
    kept = sum(place["expert_count"] for place in record["places"])
    assert kept + record["drive_experts"] == record["model"]["experts"] == 23_040


def test_what_cannot_run_exits_1_with_the_missing_bytes(k2lite: CommandLine) -> None:
    options = ("--gpus", "none", "--ram", "64G", "--drive", "none", "--json")
    found = k2lite("plan", "k2", *options)
    record = json.loads(found.out)
    assert found.status == 1
    assert record["chunk_tokens"] is None
    assert record["missing_bytes"] == record["drive_expert_bytes"] > 500e9
    assert record["decode"] is None
    assert record["steps"][0]["gain"] is None
    assert "525 GiB are missing" in k2lite("plan", "k2", *options[:-1]).out


def test_this_machine_is_measured_where_nothing_is_said(
    k2lite: CommandLine, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "probe_ram", lambda threads: 41e9)
    monkeypatch.setattr(probe, "probe_arithmetic", lambda threads: 5e11)
    monkeypatch.setattr(probe, "probe_cards", list)
    record = json.loads(k2lite("plan", tiny_file, "--drive", "2G/s", "--json").out)
    assert record["machine"]["ram_bytes_per_s"] == 41e9
    assert record["machine"]["origins"] == {
        "cards": "measured",
        "RAM": "measured",
        "RAM speed": "measured",
        "arithmetic": "measured",
        "drive": "given",
    }
    assert record["mapped"]


def test_speeds_of_another_machine_are_assumed_and_that_is_said(k2lite: CommandLine) -> None:
    found = k2lite("plan", "k2", "--gpus", "1x24G", "--ram", "128G", "--drive", "7G/s")
    assert "assumed, as it was not given: RAM speed, arithmetic" in found.err


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("4x24G", [24, 24, 24, 24]),
        ("2x24G,1x16G", [24, 24, 16]),
        ("3xH100", [80, 80, 80]),
        ("16xA100", [80] * 16),
        ("RTX4090, 2 x 3090", [24, 24, 24]),
        ("24G", [24]),
        ("none", []),
    ],
)
def test_cards_are_written_in_many_ways(text: str, sizes: list[int]) -> None:
    assert [card.memory_bytes >> 30 for card in parse_cards(text)] == sizes


@pytest.mark.parametrize("text", ["", "0x24G", "100x24G", "4xVoodoo", "2x24G,,1x16G", "x"])
def test_cards_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--gpus"):
        parse_cards(text)


@pytest.mark.parametrize(
    "options",
    [
        ("--gpus", "none", "--link", "25G/s"),
        ("--drive", "fast"),
        ("--ram-bw", "0"),
        ("--type", "Q9_Z"),
        ("--ram", "lots"),
    ],
)
def test_options_that_mean_nothing_are_wrong_use(k2lite: CommandLine, options: tuple[str, ...]) -> None:
    assert k2lite("plan", "k2", *options).status == 2


def test_a_context_beyond_the_models_is_refused(k2lite: CommandLine) -> None:
    found = k2lite("plan", "moonlight", *SERVER, "--ctx", "1M")
    assert found.status == 1
    assert "8192" in found.err


def test_a_recording_is_replayed(k2lite: CommandLine, shared_data: Path) -> None:
    trace = shared_data / "traces" / "kimi-linear-48b.jsonl"
    record = json.loads(k2lite("plan", "k2", *SERVER, "--trace", trace, "--json").out)
    replay = record["replay"]
    assert not replay["same_shape"]
    assert replay["tokens"] == 200
    assert replay["bad"]["tokens_per_s"] < replay["good"]["tokens_per_s"]
    assert sum(replay["good"]["shares"].values()) == pytest.approx(1)
    # Curve and replay are two ways to the same figure.
    assert 0.5 < replay["good"]["tokens_per_s"] / record["decode"]["good"]["tokens_per_s"] < 1.5
    assert "over 200 recorded tokens" in k2lite("plan", "k2", *SERVER, "--trace", trace).out


def test_a_recording_of_a_model_with_other_uses_is_refused(k2lite: CommandLine, shared_data: Path) -> None:
    found = k2lite("plan", "moonlight", *SERVER, "--trace", shared_data / "traces" / "olmoe-1b-7b.jsonl")
    assert found.status == 1
    assert "uses 8 experts in a layer and moonlight" in found.err
