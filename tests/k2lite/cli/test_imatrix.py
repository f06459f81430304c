"""`k2lite imatrix`."""

import json
import sys
import threading
from pathlib import Path

import pytest

from k2lite.cli.imatrix_progress import CollectionLines, shown_collection, speed
from k2lite.imatrix import ImatrixProgress
from quant.imatrix.collect import CollectingKernels
from quant.imatrix.imatrix import Imatrix
from tests.k2lite.cli.conftest import CommandLine, Terminal


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog and the other dogs are not amused " * 4)
    return path


def test_a_text_becomes_an_importance_matrix(
    k2lite: CommandLine, tiny_folder: Path, text: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    output = k2lite("imatrix", tiny_folder, "--text", text, "-o", path, "--chunk-size", 6, "--chunks", 1)
    assert output.status == 0
    assert output.out.startswith(f"{path}: 22 weights, 1 chunks, 6 tokens")
    assert "collecting: 6 tokens, statistics take" in output.err
    with Imatrix.open(path) as imatrix:
        assert imatrix.header.datasets == (str(text),)
        unseen = imatrix.unseen()["blk.1.ffn_gate_exps.weight"]
    assert "experts that no token went to" in output.out
    assert f"blk.1: {len(unseen)} experts (" in output.out


def test_files_are_merged(k2lite: CommandLine, tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    path, merged = tmp_path / "a.gguf", tmp_path / "b.gguf"
    k2lite("imatrix", tiny_folder, "--text", text, "-o", path, "--chunk-size", 16)
    output = k2lite("imatrix", "--merge", path, path, "-o", merged)
    assert output.status == 0
    assert "2 files" in output.out
    with Imatrix.open(path) as one, Imatrix.open(merged) as two:
        assert two.header.chunk_count == 2 * one.header.chunk_count


def test_ctrl_c_saves_and_says_how_to_go_on(
    k2lite: CommandLine, tiny_folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gguf"
    end_chunk = CollectingKernels.end_chunk

    def interrupted(kernels: CollectingKernels) -> None:
        import signal

        signal.raise_signal(signal.SIGINT)
        end_chunk(kernels)

    arguments = ("imatrix", tiny_folder, "--text", text, "-o", path, "--chunk-size", 16, "--chunks", 3)
    with monkeypatch.context() as patch:
        patch.setattr(CollectingKernels, "end_chunk", interrupted)
        output = k2lite(*arguments)
    assert output.status == 130
    assert "stopped after 1 of 3 chunks: the same command goes on" in output.err
    assert threading.active_count() < 20
    output = k2lite(*arguments)
    assert (output.status, output.out.split(",")[1]) == (0, " 3 chunks")
    assert "16 of them earlier" in output.err


def test_inspect_shows_what_is_in_the_file(k2lite: CommandLine, tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    k2lite("imatrix", tiny_folder, "--text", text, "-o", path, "--chunk-size", 16)
    record = json.loads(k2lite("inspect", path, "--json").out)
    assert record["metadata"]["general.type"] == "imatrix"
    lines = k2lite("inspect", path).out
    assert "imatrix.chunk_size" in lines
    assert "blk.1.ffn_down_exps.weight" in lines


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "no output: name one with -o"),
        (("-o", "x"), "no text: name one with --text"),
        (("model", "--merge", "a", "-o", "x"), "neither a model nor --text"),
    ],
)
def test_wrong_use_is_told(k2lite: CommandLine, arguments: tuple[str, ...], problem: str) -> None:
    output = k2lite("imatrix", *arguments)
    assert output.status == 2
    assert problem in output.err


def test_a_text_that_cannot_be_read_is_an_error(k2lite: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    output = k2lite("imatrix", tiny_folder, "--text", tmp_path / "absent", "-o", tmp_path / "a")
    assert (output.status, "cannot read" in output.err) == (1, True)


def test_speed_and_time_left_are_those_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    state = ImatrixProgress(3000, 5000, 1000, 10.0, 1 << 20)
    assert speed(state) == "3,000 of 5,000 tokens, 200.0 tokens/s, 0:10 left"
    lines = CollectionLines(every_s=0)
    lines.collecting(ImatrixProgress(1000, 5000, 1000, 0.0, 1 << 20))
    lines.collecting(state)
    assert capsys.readouterr().err.splitlines() == [
        "collecting: 5,000 tokens (1,000 of them earlier), statistics take 1.00 MiB of memory",
        "collecting: 60 %, 3,000 of 5,000 tokens, 200.0 tokens/s, 0:10 left",
    ]


def test_a_terminal_gets_one_bar_for_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown_collection() as show:
        show.loaded_bytes(2**20, 4 * 2**20)
        show.collecting(ImatrixProgress(3000, 5000, 1000, 10.0, 1 << 20))
    shown = terminal.getvalue()
    assert "collecting" in shown
    assert "3,000 of 5,000 tokens, 200.0 tokens/s, 0:10 left" in shown
    assert "loading" not in shown.split("collecting")[-1]
