"""Outputs that are made in one go: whole, or not there at all."""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from quant.convert.output_layout import OutputFile, OutputLayout, OutputTensor
from quant.errors import OutputError
from quant.files import direct_file
from quant.files.fresh_output import FreshProgress, OutputStopped, write_fresh


def content(tensor: OutputTensor) -> Iterator[np.ndarray]:
    for start in range(0, tensor.nbytes, 10):
        yield np.full(min(10, tensor.nbytes - start), ord(tensor.name), dtype=np.uint8)


def a_file(folder: Path) -> OutputLayout:
    path = folder / "out"
    return OutputLayout(path, (OutputFile(path, b"head", (OutputTensor("a", 25, 7), OutputTensor("b", 3))),))


def a_folder(folder: Path) -> OutputLayout:
    path = folder / "out"
    files = (OutputFile(path / "one", b"head", (OutputTensor("a", 25),)), OutputFile(path / "two", b"{}"))
    return OutputLayout(path, files, is_folder=True)


@pytest.fixture(params=[a_file, a_folder])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> OutputLayout:
    return request.param(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_header_tensors_and_padding(tmp_path: Path) -> None:
    write_fresh(a_file(tmp_path), content)
    assert (tmp_path / "out").read_bytes() == b"head" + b"a" * 25 + bytes(7) + b"bbb"
    assert names(tmp_path) == ["out"]


def test_a_folder_has_all_its_files(tmp_path: Path) -> None:
    write_fresh(a_folder(tmp_path), content)
    assert (tmp_path / "out" / "one").read_bytes() == b"head" + b"a" * 25
    assert (tmp_path / "out" / "two").read_bytes() == b"{}"
    assert (names(tmp_path), names(tmp_path / "out")) == (["out"], ["one", "two"])


def test_progress_ends_at_the_whole(layout: OutputLayout) -> None:
    seen: list[FreshProgress] = []
    write_fresh(layout, content, progress=seen.append)
    done = [state.written_bytes for state in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total_bytes == layout.total_bytes


def test_stopping_leaves_nothing(layout: OutputLayout, tmp_path: Path) -> None:
    stop = threading.Event()
    with pytest.raises(OutputStopped, match="was not written"):
        write_fresh(layout, content, progress=lambda state: stop.set(), stop=stop)
    assert names(tmp_path) == []


def test_an_error_in_the_content_leaves_nothing(layout: OutputLayout, tmp_path: Path) -> None:
    def broken(tensor: OutputTensor) -> Iterator[np.ndarray]:
        raise OutputError("broken")

    with pytest.raises(OutputError, match="broken"):
        write_fresh(layout, broken)
    assert names(tmp_path) == []


@pytest.mark.parametrize("change", [-1, 1])
def test_content_of_another_length_is_a_mistake(layout: OutputLayout, tmp_path: Path, change: int) -> None:
    with pytest.raises(ValueError, match="takes 25 bytes"):
        write_fresh(layout, lambda tensor: [np.zeros(tensor.nbytes + change, dtype=np.uint8)])
    assert names(tmp_path) == []


def test_what_exists_is_not_overwritten(layout: OutputLayout, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_fresh(layout, content)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unfinished_conversion_is_left_alone(layout: OutputLayout, tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text("{}")
    with pytest.raises(OutputError, match="unfinished conversion"):
        write_fresh(layout, content)
    assert names(tmp_path) == ["out.journal"]


def test_a_disk_without_room_is_refused_with_the_numbers(
    layout: OutputLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=20))
    with pytest.raises(OutputError, match=rf"takes {layout.total_bytes} bytes, but .* has 20 free"):
        write_fresh(layout, content)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(
    layout: OutputLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(direct_file, "_write_all", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        write_fresh(layout, content)
    assert names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write_fresh(a_file(tmp_path / "nowhere"), content)


def test_what_a_killed_run_left_is_replaced(layout: OutputLayout, tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    if layout.is_folder:
        part.mkdir()
        part = part / "one"
    part.write_bytes(b"x" * 1000)
    write_fresh(layout, content)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "one" if layout.is_folder else tmp_path / "out").read_bytes()[:5] == b"heada"


def test_a_part_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "letter").write_text("mine")
    with pytest.raises(OutputError, match="holds letter"):
        write_fresh(a_folder(tmp_path), content)
    assert (tmp_path / "out.part" / "letter").read_text() == "mine"


def test_a_second_run_on_the_same_output_is_refused(layout: OutputLayout, tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    if layout.is_folder:
        part.mkdir()
    else:
        part.write_bytes(b"theirs")
    other = os.open(part, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another process is writing"):
        write_fresh(layout, content)
    os.close(other)
    assert names(tmp_path) == ["out.part"]
    assert layout.is_folder or part.read_bytes() == b"theirs"
