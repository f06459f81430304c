"""Conversions that are stopped on their way, and what they left."""

import threading
from pathlib import Path

import pytest

from quant.convert.job import convert
from quant.convert.job_types import ConversionStopped, ConvertJob, ConvertReport
from quant.convert.journal import Journal, JournalContent
from tests.quant.convert_samples import SMALL, sample_job, stopping_after


def interrupt(job: ConvertJob, after: str = "blk.0.ffn_down_exps.weight", **options: object) -> None:
    """Run a job until the first chunk of a tensor is written."""
    stop = threading.Event()
    with pytest.raises(ConversionStopped):
        convert(job, threads=2, stop=stop, progress=stopping_after(after, stop), limits=SMALL, **options)


def finish(job: ConvertJob, *, verify: bool = False, **options: object) -> ConvertReport:
    return convert(job, threads=2, limits=SMALL, verify=verify, **options)


def journal_of(job: ConvertJob) -> JournalContent:
    journal = Journal(job.layout.journal_path)
    content = journal.read()
    journal.close()
    assert content is not None
    return content


def part_of(job: ConvertJob, number: int = 0) -> Path:
    return job.layout.part_path(job.layout.files[number])


def uninterrupted(folder: Path) -> bytes:
    """What the sample job writes when nothing happens."""
    convert(sample_job(folder / "a.gguf"), threads=1, verify=False)
    return (folder / "a.gguf").read_bytes()
