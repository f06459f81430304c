"""A good checkpoint and a good model file, copies of them to be damaged, and a command line that must fail."""

import shutil
from pathlib import Path

import pytest

from k2lite.cli.main import main
from tests.bad_input.command_line import Refused, is_one_line, snapshot
from tests.k2lite.fakes import write_chat_checkpoint


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_checkpoint(tmp_path_factory.mktemp("good") / "k2", experts=4)


@pytest.fixture(scope="session")
def good_file(good_folder: Path) -> Path:
    path = good_folder.parent / "k2.gguf"
    assert main(["quantize", str(good_folder), str(path)]) == 0
    return path


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    """A copy of the good checkpoint, to be damaged."""
    return Path(shutil.copytree(good_folder, tmp_path / "source"))


@pytest.fixture
def file(good_file: Path, tmp_path: Path) -> Path:
    """A copy of the good model file, to be damaged."""
    return Path(shutil.copy(good_file, tmp_path / "model.gguf"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must fail; returns its one line."""

    def run(*arguments: object, status: int = 1) -> str:
        capsys.readouterr()
        before = snapshot(tmp_path)
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        is_one_line(captured.err)
        assert snapshot(tmp_path) == before, "a file was left behind or changed"
        return captured.err

    return run
