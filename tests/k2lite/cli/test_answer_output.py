"""Where the parts of an answer go."""

import sys

import pytest

from k2lite.cli.answer_output import AnswerOutput
from k2lite.events import Channel, Token
from tests.k2lite.cli.conftest import Terminal

PIECES: list[tuple[Channel, str]] = [("think", "hmm \x1b[2J"), ("think", "."), ("answer", "a\x07"), ("answer", "b")]


def written(show_thinking: bool, pieces: list[tuple[Channel, str]] = PIECES) -> None:
    output = AnswerOutput(show_thinking)
    for channel, text in pieces:
        output.write(Token(1, text, channel))
    output.end()


def test_a_pipe_gets_the_answer_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    written(show_thinking=False)
    assert capsys.readouterr() == ("a\x07b\n", "")


def test_thinking_goes_to_stderr_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    written(show_thinking=True)
    assert capsys.readouterr() == ("a\x07b\n", "hmm \x1b[2J.\n")


def test_tool_calls_are_never_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    written(False, [("tool", "f:0"), ("answer", "x\n")])
    assert capsys.readouterr() == ("x\n", "f:0\n")


def test_a_terminal_is_not_steered_and_thinking_is_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    written(show_thinking=True)
    assert out.getvalue() == "a␇b\n"
    assert err.getvalue() == "\x1b[2mhmm ␛[2J\x1b[0m\x1b[2m.\x1b[0m\n"
