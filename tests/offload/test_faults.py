"""What goes wrong with drives and files becomes one clear error, never a wrong token, and the next answer is right."""

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from offload import drive
from offload.state import Stopped
from quant.errors import StoreError
from tests.offload.tiny_models import Setting, TinyModel

TOKENS = 24
Read = Callable[[int, list[memoryview], int], int]


@pytest.fixture
def copied(k2_file: Path, tmp_path: Path) -> TinyModel:
    """A model of a file that may be damaged."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(k2_file.read_bytes())
    return TinyModel(path)


def small(model: TinyModel) -> Setting:
    return Setting(model.layout.total_bytes // 4)


def replace_reads(monkeypatch: pytest.MonkeyPatch, read: Callable[[Read, int, list[memoryview], int], int]) -> None:
    """Let `read` stand in for the system's preadv, which is its first argument."""
    plain = os.preadv
    monkeypatch.setattr(drive.os, "preadv", lambda fd, buffers, offset: read(plain, fd, buffers, offset))


def test_a_read_error_is_told_and_the_next_answer_is_right(k2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)
    broken = threading.Event()

    def read(plain: Read, fd: int, buffers: list[memoryview], offset: int) -> int:
        if broken.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(fd, buffers, offset)

    replace_reads(monkeypatch, read)
    with k2.placed(small(k2)) as experts:
        for _ in range(3):
            broken.set()
            with pytest.raises(StoreError, match=r"cannot read .*Input/output error.*check the drive"):
                k2.greedy(prompt, TOKENS)
            broken.clear()
            assert k2.greedy(prompt, TOKENS)[0] == expected
        assert experts._tiers.ram.open_reads == 0


def test_errors_at_any_read_leave_no_wrong_token(k2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)
    rng = random.Random(3)
    lock = threading.Lock()

    def read(plain: Read, fd: int, buffers: list[memoryview], offset: int) -> int:
        with lock:
            fails = rng.random() < 0.0007
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(fd, buffers, offset)

    replace_reads(monkeypatch, read)
    outcomes = []
    for seed in range(6):
        smallest, total = k2.layout.smallest_budget_bytes, k2.layout.total_bytes
        with k2.placed(Setting(random.Random(seed).randint(smallest, total // 2))):
            for _ in range(4):
                try:
                    assert k2.greedy(prompt, TOKENS)[0] == expected
                    outcomes.append("right")
                except StoreError:
                    outcomes.append("error")
    assert set(outcomes) == {"right", "error"}


def test_reads_that_bring_less_than_asked_go_on(k2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)

    with k2.placed(small(k2)):
        replace_reads(monkeypatch, lambda plain, fd, buffers, offset: plain(fd, [buffers[0][:4096]], offset))
        assert k2.greedy(prompt, TOKENS)[0] == expected


def test_a_file_that_is_cut_off_is_noticed(copied: TinyModel) -> None:
    prompt = copied.prompt(20)
    expected, _ = copied.greedy(prompt, TOKENS)
    path = copied.file.paths[0]
    with copied.placed(small(copied)):
        assert copied.greedy(prompt, TOKENS)[0] == expected
        first = min(part.offset for part in copied.slabs.layers[copied.layers[0]].parts)
        resident = [copied.file.tensors[name] for name in copied.file.tensors if "_exps." not in name]
        keep = max(info.offset_bytes + info.nbytes for info in resident if info.offset_bytes < first)
        # The mapped weights of this test behind that are no longer touched: only experts are read.
        os.truncate(path, keep)
        key = (copied.layers[-1], 0)
        experts = copied.model._experts
        with pytest.raises(StoreError, match=r"ends in the middle|was changed while it was in use"):
            for expert in range(16):
                x = torch.zeros(1, copied.config.hidden_size)
                experts.forward(key[0], x, torch.tensor([[expert]]), torch.ones(1, 1))


def test_a_file_that_is_written_to_is_noticed(copied: TinyModel) -> None:
    prompt = copied.prompt(20)
    path = copied.file.paths[0]
    with copied.placed(small(copied)):
        copied.greedy(prompt, 2)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        with pytest.raises(StoreError, match="was changed while it was in use"):
            copied.greedy(copied.prompt(20, seed=1), TOKENS)


def test_a_file_that_is_replaced_goes_on_being_read(copied: TinyModel, tmp_path: Path) -> None:
    prompt = copied.prompt(20)
    expected, _ = copied.greedy(prompt, TOKENS)
    other = tmp_path / "other"
    other.write_bytes(bytes(1000))
    with copied.placed(small(copied)):
        other.rename(copied.file.paths[0])
        assert copied.greedy(prompt, TOKENS)[0] == expected


def test_without_direct_reads_the_answer_is_the_same_and_a_note_says_so(
    k2: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = k2.prompt(20)
    expected, _ = k2.greedy(prompt, TOKENS)
    monkeypatch.setattr(drive, "_open_direct", lambda path: None)
    with k2.placed(small(k2)) as experts:
        assert k2.greedy(prompt, TOKENS)[0] == expected
        assert any("through the page cache" in note for note in experts.state().notes)


@pytest.mark.parametrize("seed", range(8))
def test_a_stop_at_any_time_ends_soon_and_the_next_answer_is_right(k2: TinyModel, seed: int) -> None:
    rng = random.Random(seed)
    prompt = k2.prompt(40)
    expected, _ = k2.greedy(prompt, TOKENS)
    with k2.placed(k2.random_setting(rng)) as experts:
        for _ in range(4):
            stop = threading.Event()
            timer = threading.Timer(rng.uniform(0, 0.05), stop.set)
            timer.start()
            experts.listen(stop)
            try:
                k2.greedy(prompt, 1000 if rng.random() < 0.5 else 3)
            except Stopped:
                assert stop.is_set() and experts._tiers.ram.open_reads == 0
            timer.cancel()
            experts.listen(None)
            assert k2.greedy(prompt, TOKENS)[0] == expected


def test_a_copy_that_is_none_is_refused(k2: TinyModel, k2_file: Path, tmp_path: Path) -> None:
    content = bytearray(k2_file.read_bytes())
    longer = tmp_path / "longer.gguf"
    longer.write_bytes(content + b"x")
    with pytest.raises(StoreError, match=r"no copy of .*bytes instead of"), k2.placed(Setting(10**9, mirror=longer)):
        pass
    content[-1] ^= 1
    other = tmp_path / "other.gguf"
    other.write_bytes(content)
    with pytest.raises(StoreError, match="they differ near byte"), k2.placed(Setting(10**9, mirror=other)):
        pass
    with pytest.raises(StoreError, match="cannot read"), k2.placed(Setting(10**9, mirror=tmp_path / "none.gguf")):
        pass
