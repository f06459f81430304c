"""Conversions in processes that are killed at any moment, and what they did until then.

Processes are forked from a server that has imported everything, so that killing fifty of them does not take minutes.
They are killed from outside after some time, or by themselves after some steps, which reaches every moment on a machine
of any speed. Each logs every chunk before it is encoded: a chunk whose process dies meanwhile counts as well.
"""

import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from quant.convert import pipeline as convert_pipeline
from quant.convert.job import convert
from quant.convert.job_types import ConvertJob, ConvertLimits

# A position in an output: number of the file, offset in it.
Position = tuple[int, int]
JobAt = Callable[[Path], AbstractContextManager[ConvertJob]]


@dataclass(frozen=True)
class Task:
    """What a process does. `job_at` opens the job for a destination; it is a function that can be pickled.

    `steps` is after how many steps the process kills itself, None for never.
    """

    job_at: JobAt
    destination: Path
    log: Path
    limits: ConvertLimits
    steps: int | None


@dataclass
class Outcome:
    """What killing did. `again` lists chunks that were encoded though the journal had them."""

    kills: int = 0
    conversions: int = 0
    resumed: int = 0
    again: list[tuple[Position, Position]] = field(default_factory=list)


class Steps:
    """Counts what changes the disk and what is encoded, and dies when it was enough."""

    def __init__(self, log: int, limit: int | None) -> None:
        self._log = log
        self._limit = limit
        self._count = 0
        self._lock = threading.Lock()

    def counted(self, function: Callable) -> Callable:
        """The function, which becomes a step."""

        def step(*given, **named):
            with self._lock:
                self._count += 1
                if self._count == self._limit:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return step

    def told(self) -> None:
        os.write(self._log, f"steps {self._count}\n".encode())


def work(task: Task) -> None:
    """One conversion. Runs in a process of its own."""
    with task.job_at(task.destination) as job:
        places = {
            tensor.name: (number, start, tensor.nbytes)
            for number, file in enumerate(job.layout.files)
            for tensor, start in zip(file.tensors, file.starts, strict=True)
        }
        log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        steps, encode_chunk = Steps(log, task.steps), convert_pipeline.encode_chunk

        def logged(piece, rows, *rest):
            number, start, nbytes = places[piece.tensor.source.name]
            offset = start + nbytes * rows.start // piece.tensor.source.rows
            os.write(log, f"{number} {offset}\n".encode())
            return encode_chunk(piece, rows, *rest)

        convert_pipeline.encode_chunk = steps.counted(logged)
        for name in ("pwrite", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "mkdir", "open"):
            setattr(os, name, steps.counted(getattr(os, name)))
        os.write(log, b"begun\n")
        convert(job, threads=2, limits=task.limits)
        steps.told()


def journal_path(destination: Path) -> Path:
    """Where the journal of an output lies."""
    return destination.with_name(destination.name + ".journal")


def journal_end(destination: Path) -> Position:
    """Up to where the journal beside an output promises it, read without the code under test."""
    path = journal_path(destination)
    if not path.exists():
        return 0, 0
    records = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    ends = [(record["file"], record["end"]) for record in records if "end" in record]
    return ends[-1] if ends else (0, 0)


class Killer:
    """Runs one job again and again under one name, killing it most of the time."""

    def __init__(self, job_at: JobAt, folder: Path, name: str, limits: ConvertLimits) -> None:
        self.destination = folder / "killed" / name
        self.whole = folder / "whole" / name
        self.outcome = Outcome()
        self._task = functools.partial(Task, job_at, limits=limits)
        self._log = folder / "log"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "tests.k2lite.quantize.test_resume", "quant.convert.verify"])
        for path in (self.destination, self.whole):
            path.parent.mkdir()
        # The first one also starts the server. Of the others the fastest counts: measured while the machine was busy
        # with something else, hardly a kill would come in time.
        self.seconds = min([self._whole_run() for _ in range(4)][1:])
        self.steps = int(self._logged()[-1].removeprefix("steps "))

    def _whole_run(self) -> float:
        """A run that nobody kills, in place of the one before. Returns its seconds."""
        self._remove(self.whole)
        started = time.monotonic()
        assert self._run(self.whole)
        return time.monotonic() - started

    def kill_after_steps(self, times: int, *, share: float, seed: int) -> Outcome:
        """Kill the job after a random part of its steps, up to `share` of them, and so on.

        What is done before its time is compared, thrown away and begun again. At the end the job is let finish.
        """
        generator = random.Random(seed)
        while self.outcome.kills < times:
            if self._run(self.destination, steps=generator.randint(1, int(share * self.steps))):
                self._finished()
        return self._end()

    def kill_after_seconds(self, times: int, *, share: float, seed: int) -> Outcome:
        """Kill the job after a random part of its time, up to `share` of it, and so on, as above."""
        generator = random.Random(seed)
        while self.outcome.kills < times:
            if self._run(self.destination, delay_s=generator.uniform(0, share * self.seconds)):
                self._finished()
        return self._end()

    def _end(self) -> Outcome:
        if files_in(self.destination.parent):
            assert self._run(self.destination)
            self._finished()
        return self.outcome

    def _finished(self) -> None:
        names = [path.relative_to(self.whole.parent) for path in files_in(self.whole.parent)]
        assert [path.relative_to(self.destination.parent) for path in files_in(self.destination.parent)] == names
        for name in names:
            assert (self.destination.parent / name).read_bytes() == (self.whole.parent / name).read_bytes(), name
        self.outcome.conversions += 1
        self._remove(self.destination)

    def _remove(self, destination: Path) -> None:
        shutil.rmtree(destination.parent)
        destination.parent.mkdir()

    def _run(self, destination: Path, *, steps: int | None = None, delay_s: float | None = None) -> bool:
        """One process. Whether it was done before it was killed."""
        before = journal_end(destination)
        self._log.unlink(missing_ok=True)
        process = self._context.Process(target=work, args=(self._task(destination, self._log, steps=steps),))
        process.start()
        if delay_s is not None:
            while process.is_alive() and not self._logged():
                time.sleep(0.001)
            process.join(delay_s)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        lines = [line.split() for line in self._logged() if line[0].isdigit()]
        encoded = [(int(number), int(offset)) for number, offset in lines]
        self.outcome.kills += process.exitcode != 0
        self.outcome.resumed += before > (0, 0) and bool(encoded)
        self.outcome.again += [(before, position) for position in encoded if position < before]
        # Killed after its very last step, it was done as well.
        return process.exitcode == 0 or (destination.exists() and not journal_path(destination).exists())

    def _logged(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


def files_in(folder: Path) -> list[Path]:
    """All files of a folder and its folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
