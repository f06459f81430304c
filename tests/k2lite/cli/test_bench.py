"""`k2lite bench`: what it prints, what it refuses, and one run of everything beside llama.cpp."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from k2lite.cli.bench import prompt_lengths
from tests.k2lite.cli.conftest import CommandLine

SHORT = ("--rounds", 1, "--decode-tokens", 4)
PROMISED = {
    "decode_tokens_per_s",
    "prefill_tokens_per_s",
    "weight_bytes_per_token",
    "roof_bytes_per_s",
    "roof_share",
    "tiers",
    "peak_rss_bytes",
    "machine",
    "versions",
    "peer_decode_tokens_per_s",
    "peer_prefill_tokens_per_s",
    "decode_ratio",
    "prefill_ratio",
}


def numbers(value: Any) -> list[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def test_everything_at_once_beside_llama_cpp(k2lite: CommandLine, tiny_file: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    everything = ("--against", "llama.cpp", "--busy-neighbour", "--profile", "--prefill-tokens", "16,8", "--json")
    output = k2lite("bench", tiny_file, *SHORT, "--depth", 8, "--threads", 1, *everything)
    assert output.status == 0, output.err
    found = json.loads(output.out)
    assert output.out.count("\n") == 1
    assert found.keys() >= PROMISED
    assert all(math.isfinite(number) and number >= 0 for number in numbers(found))
    assert found["decode_ratio"] == pytest.approx(found["decode_tokens_per_s"] / found["peer_decode_tokens_per_s"]), (
        "of one round"
    )
    assert [row["tokens"] for row in found["prefill"]] == [16, 8]
    assert found["tiers"]["ram"]["hits"] == 4 * 4, "4 tokens in one layer with experts"
    assert found["busy_neighbour"]["share_of_quiet"] > 0
    assert {"attention", "experts", "router", "head"} <= found["profile"]["stages"].keys()
    assert found["threads"] == 1


def test_people_get_lines(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("bench", tiny_file, *SHORT, "--prefill-tokens", 0)
    assert output.status == 0, output.err
    assert "decode  " in output.out
    assert "RAM roof" in output.out
    assert "prefill" not in output.out
    assert "round 1 of 1" in output.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--rounds", 0), "rounds"),
        (("--prefill-tokens", "8,0"), "1 or more tokens"),
        (("--ctx", 8, "--prefill-tokens", 16), "raise --ctx"),
        (("--against", "itself"), "invalid choice"),
    ],
)
def test_wrong_use_is_refused(
    k2lite: CommandLine, tiny_file: Path, arguments: tuple[object, ...], complaint: str
) -> None:
    output = k2lite("bench", tiny_file, *arguments)
    assert output.status == 2
    assert output.out == ""
    assert complaint in output.err


def test_a_model_and_a_shape_exclude_each_other(k2lite: CommandLine, tiny_file: Path) -> None:
    assert k2lite("bench", tiny_file, "--shape", "k2").status == 2


def test_a_folder_is_no_file(k2lite: CommandLine, tiny_folder: Path) -> None:
    output = k2lite("bench", tiny_folder)
    assert output.status == 2
    assert "k2lite quantize" in output.err


def test_a_damaged_file_is_one_line(k2lite: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    output = k2lite("bench", tmp_path / "model.gguf", *SHORT)
    assert output.status == 1
    assert output.out == ""
    assert "model.gguf" in output.err


def test_lengths_of_prompts() -> None:
    assert prompt_lengths("512,2k,512") == (512, 2048)
    assert prompt_lengths("0") == ()
    with pytest.raises(ValueError):
        prompt_lengths("0,512")
