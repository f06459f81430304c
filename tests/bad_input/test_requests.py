"""Options, prompts and texts that cannot be served: one line that says why and what to do."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from k2lite.cli.main import main
from tests.bad_input.command_line import Refused, says
from tests.tiny import write_checkpoint


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("-p", "x " * 60, "--ctx", 32), ("the prompt has", "the context holds 32", "shorten the prompt")),
        (("-p", "x", "--ctx", "512k"), ("524288 tokens was asked for", "131072 or less (--ctx)")),
        (("-p", "x", "--kernels", "magic"), ("unknown kernels 'magic'", "ggml")),
        (("-p", "x", "--thinking", "on"), ("think",)),
    ],
)
def test_a_request_that_cannot_be_served_is_told_why(
    options: Sequence[object], parts: Sequence[str], good_file: Path, refused: Refused
) -> None:
    says(refused("run", good_file, *options), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("run", "-p", ""), ("the prompt is empty", "at least one character")),
        (("run",), ("no prompt", "-p TEXT")),
        (("eval", "some.gguf"), ("no text", "--text FILE")),
        (("run", "-p", "x", "--temperature", "-1"), ("temperature is -1", "between")),
        (("quantize", "a", "b", "--type", "Q3_X"), ("unknown recipe 'Q3_X'", "Q4_K_M", "NF4")),
        (("quantize", "a"), ("no output", "--dry-run")),
    ],
)
def test_wrong_use_exits_2(arguments: Sequence[str], parts: Sequence[str], refused: Refused) -> None:
    says(refused(*arguments, status=2), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("run", "-p", "x", "--ctx", "0"), ("--ctx", "0 must be 1 or more")),
        (("run", "-p", "x", "--ctx", "9" * 400), ("--ctx", "more than any machine")),
        (("run", "-p", "x", "--threads", "all"), ("--threads", "'all' is not a")),
    ],
)
def test_options_that_cannot_be_read_exit_2(
    arguments: Sequence[str], parts: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    assert (end.value.code, captured.out) == (2, "")
    assert captured.err.startswith("usage: ")
    says(captured.err.splitlines()[-1], *parts)


@pytest.mark.parametrize(
    ("stdin", "parts"),
    [
        (None, ("stdin is closed", "-p TEXT")),
        (io.TextIOWrapper(io.BytesIO(b"caf\xe9 " * 9), encoding="utf-8"), ("not UTF-8 at byte 3", "convert it")),
        (io.TextIOWrapper(io.BytesIO(bytes(range(256))), encoding="utf-8"), ("not UTF-8 at byte 128", "convert it")),
    ],
    ids=["closed", "Latin-1", "binary"],
)
def test_a_prompt_that_cannot_be_read_is_told_why(
    stdin: io.TextIOWrapper | None,
    parts: Sequence[str],
    good_file: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    says(refused("run", good_file, "-p", "-"), *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("cannot read", "text.txt", "No such file")),
        (b"", ("the text has 0 tokens", "give a longer one")),
        (b"a", ("the text has 1 tokens", "give a longer one")),
        (b"caf\xe9", ("text.txt", "not UTF-8 at byte 3", "convert it")),
    ],
    ids=["absent", "empty", "too short", "Latin-1"],
)
def test_a_text_that_cannot_be_scored_is_named(
    content: bytes | None, parts: Sequence[str], good_file: Path, tmp_path: Path, refused: Refused
) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    says(refused("eval", good_file, "--text", tmp_path / "text.txt"), *parts)


def test_a_model_without_a_template_is_told_to_take_a_raw_prompt(tmp_path: Path, refused: Refused) -> None:
    source = write_checkpoint(tmp_path / "k2", "k2", layers=2, experts=4)
    says(refused("run", source, "-p", "x"), "no chat template", "raw prompt")
