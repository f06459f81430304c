"""Files named with @ in a prompt."""

import os
from pathlib import Path

import pytest

from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import chat
from tui.attachments import MAX_FILE_BYTES, attach
from tui.errors import AttachmentError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("alpha\n")
    (tmp_path / "two words.md").write_text("```\ncode\n```\n")
    (tmp_path / "binary").write_bytes(b"\x00\x01")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_a_file_is_put_behind_the_text(folder: Path) -> None:
    attached = attach("Read @a.txt, please.")
    assert attached.content == "Read @a.txt, please.\n\nContents of a.txt:\n\n```\nalpha\n```"
    assert attached.files == (("a.txt", 6),)


def test_a_fence_in_the_file_cannot_end_the_one_around_it(folder: Path) -> None:
    assert attach('@"two words.md"').content.endswith("````\n```\ncode\n```\n````")


@pytest.mark.parametrize("text", ["plain", "mail me@home.org", "@dataclass is one", "@nobody said", "a @ b"])
def test_what_is_no_file_stays_text(folder: Path, text: str) -> None:
    assert attach(text).content == text
    assert attach(text).files == ()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("binary", "is a binary file"),
        ("latin", "not UTF-8 at byte 0"),
        ("large", f"has {MAX_FILE_BYTES + 1:,} bytes, but at most"),
        ("sub", "is a folder"),
        ("pipe", "not a regular file"),
        ("sub/absent.txt", "there is no file sub/absent.txt"),
    ],
)
def test_what_cannot_be_attached_is_refused(folder: Path, name: str, complaint: str) -> None:
    with pytest.raises(AttachmentError, match=complaint):
        attach(f"see @{name}")


def test_a_file_named_twice_is_attached_once(folder: Path) -> None:
    assert len(attach("@a.txt and @a.txt").files) == 1


async def test_the_question_shows_the_name_and_the_model_gets_the_text(folder: Path) -> None:
    engine = FakeEngine([Script(says("Alpha."))])
    async with chat(engine) as screen:
        await screen.ask("what is in @a.txt")
        await screen.shows("what is in @a.txt", "+ a.txt (6 B)")
        assert "alpha" not in screen.screen_text().replace("Alpha", "")
        assert "alpha" in engine.requests[0].messages[-1].content
        await screen.send("/edit")
        await screen.until(lambda: screen.prompt.text == "what is in @a.txt")


async def test_a_refused_file_leaves_the_prompt_in_the_box(folder: Path) -> None:
    engine = FakeEngine()
    async with chat(engine) as screen:
        await screen.ready()
        await screen.send("see @binary")
        await screen.until(lambda: any("is a binary file" in error for error in screen.errors))
        await screen.until(lambda: screen.prompt.text == "see @binary")
        assert engine.requests == []
