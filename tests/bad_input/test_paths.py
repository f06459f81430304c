"""Sources, destinations and models that are no such thing: the path is named, with what to do."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bad_input.command_line import Change, Refused, says

NO_SOURCE = ("is neither a checkpoint folder nor a GGUF file", "give the folder of config.json, or the file")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda path: None, NO_SOURCE),
        (lambda path: path.write_text("x"), NO_SOURCE),
        (lambda path: path.mkdir(), ("config.json", "No such file")),
        (lambda path: path.symlink_to(path), NO_SOURCE),
    ],
    ids=["absent", "a file", "an empty folder", "a link to itself"],
)
def test_a_source_that_is_none_is_named(make: Change, parts: Sequence[str], tmp_path: Path, refused: Refused) -> None:
    make(tmp_path / "source")
    says(refused("quantize", tmp_path / "source", tmp_path / "out.gguf"), str(tmp_path / "source"), *parts)


@pytest.mark.parametrize(
    ("make", "name", "parts"),
    [
        (lambda path: (path / "a.gguf").write_text("mine"), "a.gguf", ("exists already", "choose another name")),
        (lambda path: (path / "a.gguf").symlink_to("nowhere"), "a.gguf", ("exists already", "choose another name")),
        (lambda path: None, "", ("exists already", "choose another name")),
        (lambda path: None, "missing/a.gguf", ("the folder", "does not exist", "create it first")),
        (lambda path: (path / "b").write_text("mine"), "b/a.gguf", ("the folder", "does not exist", "create it first")),
        (lambda path: None, "a" * 300, ("cannot create", "File name too long")),
    ],
    ids=["a file", "a broken link", "a folder", "in no folder", "in a file", "too long"],
)
def test_a_destination_that_cannot_be_is_named(
    make: Change, name: str, parts: Sequence[str], good_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    make(tmp_path)
    says(refused("quantize", good_folder, tmp_path / name), str(tmp_path), *parts)


def test_a_folder_that_cannot_be_written_is_named(good_folder: Path, refused: Refused) -> None:
    folder = Path("/sys")  # which not even root may write to
    if not folder.is_dir():
        pytest.skip("this system has no folder that nobody may write to")
    says(refused("quantize", good_folder, folder / "a.gguf"), "cannot create /sys/a.gguf")


@pytest.mark.parametrize("command", [("run", "-p", "x"), ("inspect",), ("eval", "--text", __file__)])
@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda path: None, ("cannot open", "No such file")),
        (lambda path: path.mkdir(), ("config.json", "No such file")),
        (lambda path: path.symlink_to(path), ("cannot open", "symbolic links")),
        (lambda path: os.mkfifo(path), ("is not a regular file",)),
    ],
    ids=["absent", "an empty folder", "a link to itself", "a pipe"],
)
def test_a_model_that_is_none_is_named(
    command: Sequence[str], make: Change, parts: Sequence[str], tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "model.gguf"
    make(path)
    says(refused(command[0], path, *command[1:]), str(path), *parts)


def test_a_folder_is_no_text(good_file: Path, tmp_path: Path, refused: Refused) -> None:
    says(refused("eval", good_file, "--text", tmp_path), str(tmp_path), "Is a directory")
