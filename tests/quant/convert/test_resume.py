"""An interrupted conversion goes on: same bytes, nothing done twice, and no trust in what is not there."""

import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from quant.convert import pipeline as convert_pipeline
from quant.convert.job_types import ConversionStopped, ConvertJob
from quant.convert.journal import Journal
from quant.convert.pieces import weights_before
from quant.convert.resume import place_after
from quant.convert.verify_result import VerificationError
from tests.quant.convert_samples import SHAPES, WEIGHTS, folder_layout, sample_job, sources
from tests.quant.interrupted import finish, interrupt, journal_of, part_of, uninterrupted

NAMES = list(SHAPES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted run writes."""
    return uninterrupted(tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("after", NAMES[:-1])
def test_the_file_is_that_of_an_uninterrupted_run(tmp_path: Path, expected: bytes, after: str) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job, after)
    content = journal_of(job)
    done = weights_before(job, place_after(job.layout, content.stretches))
    report = finish(job)
    assert (tmp_path / "a.gguf").read_bytes() == expected
    assert report.work.resumed_weights == done > 0
    assert report.work.encoded_weights == WEIGHTS - done
    assert report.work.earlier_runs == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_no_row_that_the_journal_has_is_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, encoded = sample_job(tmp_path / "a.gguf"), []
    interrupt(job, "blk.0.ffn_gate_exps.weight")
    encode_chunk = convert_pipeline.encode_chunk

    def logged(piece, rows, *rest):
        encoded.append((piece.tensor.source.name, rows))
        return encode_chunk(piece, rows, *rest)

    monkeypatch.setattr(convert_pipeline, "encode_chunk", logged)
    work = finish(job).work
    assert {name for name, _ in encoded} <= set(NAMES[4:])
    assert sum(len(rows) * SHAPES[name][-1] for name, rows in encoded) == WEIGHTS - work.resumed_weights


def test_it_may_be_interrupted_again_and_again(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf")
    resumed = []
    for name in NAMES[:-1]:
        interrupt(job, name)
        resumed.append(journal_of(job).stretches[-1].end)
    assert all(before < after for before, after in pairwise(resumed))
    finish(job)
    assert (tmp_path / "a.gguf").read_bytes() == expected


def shards(destination: Path) -> ConvertJob:
    return sample_job(destination, shard_bytes=450_000)


def folder(destination: Path) -> ConvertJob:
    job = sample_job(destination)
    return replace(job, layout=folder_layout(destination, job))


@pytest.mark.parametrize("made", [shards, folder])
def test_several_files_go_on_too(tmp_path: Path, made: Callable[[Path], ConvertJob]) -> None:
    (tmp_path / "whole").mkdir()
    whole = finish(made(tmp_path / "whole" / "a"))
    assert len(whole.files) > 1
    job = made(tmp_path / "a")
    for after in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight", "output_norm.weight"):
        interrupt(job, after)
    assert journal_of(job).stretches[-1].file > 0
    report = finish(job)
    assert report.work.resumed_weights > 0
    assert [path.read_bytes() for path in report.files] == [path.read_bytes() for path in whole.files]
    assert not job.layout.journal_path.exists() and not list(tmp_path.glob("*.part"))


def test_what_lies_behind_the_last_record_is_cut_off(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    with part_of(job).open("ab") as file:
        file.write(os.urandom(5_000_000))
    finish(job)
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_part_that_lost_its_end_goes_back_to_what_it_covers(tmp_path: Path, expected: bytes) -> None:
    job, generator = sample_job(tmp_path / "a.gguf"), random.Random(0)
    interrupt(job)
    for _ in range(4):
        size = generator.randrange(part_of(job).stat().st_size)
        os.truncate(part_of(job), size)
        interrupt(job)
    os.truncate(part_of(job), 50_000)
    covered = [stretch for stretch in journal_of(job).stretches if stretch.end <= 50_000]
    report = finish(job)
    assert report.work.resumed_bytes == covered[-1].end
    assert (tmp_path / "a.gguf").read_bytes() == expected


@pytest.mark.parametrize("missing", ["part", "end"])
def test_a_part_that_is_gone_is_written_again(tmp_path: Path, expected: bytes, missing: str) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    if missing == "part":
        part_of(job).unlink()
    else:
        os.truncate(part_of(job), 3)
    assert finish(job).work.resumed_bytes == 0
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_stretch_that_is_not_as_it_was_written_is_written_again(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    stretches = journal_of(job).stretches
    data = bytearray(part_of(job).read_bytes())
    for stretch in stretches[-2:]:
        data[stretch.start] ^= 1
    part_of(job).write_bytes(data)
    assert finish(job).work.resumed_bytes == stretches[-3].end
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_damage_that_only_verification_finds_is_repaired_by_the_next_run(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    stretches = journal_of(job).stretches
    data = bytearray(part_of(job).read_bytes())
    data[stretches[3].start] ^= 1
    part_of(job).write_bytes(data)
    with pytest.raises(VerificationError, match="the same command again"):
        finish(job, verify=True)
    assert not (tmp_path / "a.gguf").exists()
    assert finish(job).work.resumed_bytes == stretches[2].end
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_torn_journal_goes_back_to_its_last_whole_line(tmp_path: Path, expected: bytes) -> None:
    job, generator = sample_job(tmp_path / "a.gguf"), random.Random(1)
    for _ in range(6):
        interrupt(job)
        journal = job.layout.journal_path
        os.truncate(journal, generator.randrange(1, journal.stat().st_size))
    finish(job)
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_source_that_came_back_is_enough_to_go_on(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf", tensors=sources())
    interrupt(job)
    assert finish(sample_job(tmp_path / "a.gguf", tensors=sources())).work.resumed_weights > 0
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_stop_during_verification_reads_back_again(tmp_path: Path, expected: bytes) -> None:
    job, stop = sample_job(tmp_path / "a.gguf"), threading.Event()

    def progress(state) -> None:
        if state.phase == "verifying":
            stop.set()

    try:
        finish(job, verify=True, stop=stop, progress=progress)
    except ConversionStopped as error:
        assert "run the same command again" in str(error)
        assert finish(job).work.encoded_weights == 0
    assert (tmp_path / "a.gguf").read_bytes() == expected


class PowerCut(BaseException):
    """Nobody catches this."""


@pytest.mark.parametrize("shard_bytes", [None, 450_000])
def test_a_crash_between_any_two_steps_of_naming_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int | None
) -> None:
    plain = finish(sample_job(tmp_path / "plain.gguf", shard_bytes=shard_bytes))
    expected_files = [path.read_bytes() for path in plain.files]
    for step in range(len(plain.files) + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        job = sample_job(folder / "plain.gguf", shard_bytes=shard_bytes)
        left = step

        def rename(path: Path, target: Path, rename=Path.rename) -> Path:
            nonlocal left
            if not left:
                raise PowerCut
            left -= 1
            return rename(path, target)

        def remove(journal: Journal) -> None:
            raise PowerCut

        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(Path, "rename", rename)
            patch.setattr(Journal, "remove", remove)
            finish(job)
        report = finish(job)
        assert (report.work.encoded_weights, report.work.resumed_weights) == (0, WEIGHTS)
        assert [path.read_bytes() for path in report.files] == expected_files
        assert len(list(folder.iterdir())) == len(expected_files)
