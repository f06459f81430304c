"""`k2lite eval`."""

import json
from pathlib import Path

import pytest

from tests.k2lite.cli.conftest import CommandLine


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog and the other dogs are not amused " * 3)
    return path


def test_perplexity_is_printed(k2lite: CommandLine, tiny_file: Path, text: Path) -> None:
    output = k2lite("eval", tiny_file, "--text", text, "--window", 16)
    assert output.status == 0
    assert "perplexity  " in output.out
    assert "KL" not in output.out


def test_a_file_agrees_with_itself(k2lite: CommandLine, tiny_file: Path, text: Path) -> None:
    record = json.loads(k2lite("eval", tiny_file, "--against", tiny_file, "--text", text, "-n", 40, "--json").out)
    assert (record["mean_kl"], record["top1_agreement"]) == (0, 1)
    assert record["perplexity"] == record["reference_perplexity"]
    assert record["tokens"] == 39


def test_a_file_is_close_to_its_source(k2lite: CommandLine, tiny_file: Path, tiny_folder: Path, text: Path) -> None:
    output = k2lite("eval", tiny_file, "--against-source", tiny_folder, "--text", text, "-n", 60, "--json")
    record = json.loads(output.out)
    assert 0 < record["mean_kl"] < 0.3
    assert record["mean_kl"] <= record["kl_p999"]
    assert record["top1_agreement"] > 0.7


@pytest.mark.parametrize(("option", "kind"), [("--against", "folder"), ("--against-source", "file")])
def test_a_reference_of_the_wrong_kind_is_told_the_right_option(
    option: str, kind: str, k2lite: CommandLine, tiny_file: Path, tiny_folder: Path, text: Path
) -> None:
    output = k2lite("eval", tiny_file, option, tiny_folder if kind == "folder" else tiny_file, "--text", text)
    assert output.status == 2
    assert ("use --against-source" if kind == "folder" else "use --against for a file") in output.err


def test_a_text_that_cannot_be_read_is_an_error(k2lite: CommandLine, tiny_file: Path, tmp_path: Path) -> None:
    assert "cannot read" in k2lite("eval", tiny_file, "--text", tmp_path / "absent.txt").err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "is not UTF-8 at byte 3" in k2lite("eval", tiny_file, "--text", tmp_path / "latin.txt").err


def test_a_single_token_has_no_error_and_valid_json(k2lite: CommandLine, tiny_file: Path, text: Path) -> None:
    arguments = ("eval", tiny_file, "--text", text, "-n", 2)
    assert json.loads(k2lite(*arguments, "--json").out)["perplexity_error"] is None
    assert "±" not in k2lite(*arguments).out
