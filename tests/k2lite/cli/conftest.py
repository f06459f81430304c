"""A tiny model on the drive, as a checkpoint and quantized, the command line without a process, and a terminal."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from k2lite.cli.main import main
from tests.k2lite.fakes import write_chat_checkpoint


@dataclass(frozen=True)
class Output:
    """What a command left behind."""

    status: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A stream that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


CommandLine = Callable[..., Output]


@pytest.fixture
def k2lite(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs a command line in this process: k2lite("run", "-p", "hello")."""

    def run(*arguments: object) -> Output:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's way out
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Output(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the K2 family, with a chat template."""
    return write_chat_checkpoint(tmp_path_factory.mktemp("cli") / "tiny-k2")


@pytest.fixture(scope="session")
def tiny_file(tiny_folder: Path) -> Path:
    """The same as a GGUF file in Q8_0."""
    file = tiny_folder.parent / "tiny.gguf"
    assert main(["quantize", str(tiny_folder), str(file), "--type", "Q8_0"]) == 0
    return file
