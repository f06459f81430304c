"""The conversion job: one pass from tensors that somebody can read to finished files, stopped and resumed at will.

It knows no model and no file format: the job says which tensors there are, how their values are read and written, and
where the bytes go. The bytes do not depend on the number of threads or on where a run was interrupted.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

from quant.convert.commit import cut_parts, discard_foreign_parts, name_files, part_names, refuse_existing
from quant.convert.job_types import (
    ConversionStopped,
    ConvertJob,
    ConvertLimits,
    ConvertProgress,
    ConvertReport,
    Phase,
    Stretch,
    WorkDone,
    type_totals,
)
from quant.convert.journal import Journal, JournalContent
from quant.convert.pieces import pieces_after, weights_before
from quant.convert.pipeline import EncodedChunk, encoded_chunks
from quant.convert.resume import Place, check_same_work, place_after, trusted
from quant.convert.sync import Syncer
from quant.convert.verify_result import Verification, VerificationError
from quant.convert.writer import OutputWriter, free_bytes
from quant.errors import K2Error, OutputError
from quant.files.paths import is_folder

_BEGINNING = Place(0, 0)
_GO_ON = "What was written is kept: run the same command again to go on"

# Outputs from this size on are not kept in the system's memory when they are on the drive: they would push out
# everything else, and verification would read them from the drive anyway.
_UNCACHED_BYTES = 4 * 1024**3


def convert(
    job: ConvertJob,
    *,
    threads: int | None = None,
    progress: Callable[[ConvertProgress], None] | None = None,
    stop: threading.Event | None = None,
    verify: bool = True,
    restart: bool = False,
    limits: ConvertLimits | None = None,
) -> ConvertReport:
    """Write the output of `job`, or what is left of it; its names appear only when it is complete and verified.

    A run that ends early, for whatever reason, leaves part files and a journal with which the next one goes on, but
    nothing when no weight was written. `restart` gives up what is there. `threads` encode (default: one a processor);
    `progress` is called in the calling thread.

    Raises OutputError (a name is taken, no room, disk full, begun in another way, another process is at it),
    ConversionStopped within a second after `stop` was set, VerificationError, EncodeError, and what reading raises.
    """
    run = _Run(job, threads or len(os.sched_getaffinity(0)), progress, stop or threading.Event(), limits)
    with _locked_journal(job) as journal:
        if restart:
            _forget(job, journal)
        content = journal.read()
        if content is not None:
            check_same_work(job, content)
        verification = None
        if content is not None and content.complete:
            run.resume(content.stretches, content)
        else:
            refuse_existing(job.layout)
            run.resume(trusted(job, content), content)
            with _kept(run, journal):
                cut_parts(job.layout, place_after(job.layout, run.stretches))
                _refuse_little_room(job, held_bytes=run.work.resumed_bytes)
                if content is None or not run.stretches:
                    journal.start(job.fingerprint, job.layout.digest, part_names(job.layout))
                else:
                    journal.keep(content.ends[len(run.stretches) - 1])
                    journal.begin_another_run()
                run.write(journal)
                verification = run.verify() if verify else None
                journal.append_complete()
        name_files(job.layout, journal)
    return run.report(verification)


class _Run:
    """One run of a job: what it was asked, and what it has done so far. Owned by the calling thread."""

    def __init__(
        self,
        job: ConvertJob,
        threads: int,
        progress: Callable[[ConvertProgress], None] | None,
        stop: threading.Event,
        limits: ConvertLimits | None,
    ) -> None:
        self.job = job
        self.work = WorkDone()
        self.done_weights = 0
        self.stretches: tuple[Stretch, ...] = ()
        self._threads = threads
        self._progress = progress
        self._stop = stop
        self._limits = limits or ConvertLimits()
        self._started = time.monotonic()

    def resume(self, stretches: tuple[Stretch, ...], content: JournalContent | None) -> None:
        """Take over what earlier runs wrote. Raises OutputError when writing cannot go on behind it."""
        self.stretches = stretches
        self.done_weights = weights_before(self.job, place_after(self.job.layout, stretches))
        self.work = WorkDone(self.done_weights, sum(stretch.nbytes for stretch in stretches))
        if content is not None and stretches:
            self.work = replace(self.work, earlier_runs=content.runs, earlier_s=content.seconds)

    def write(self, journal: Journal) -> None:
        """Write everything behind `stretches`, which then are all: on the drive and in the journal."""
        place = place_after(self.job.layout, self.stretches)
        drop_cache = self.job.layout.total_bytes >= _UNCACHED_BYTES
        syncer = Syncer(journal, self._limits.stretch_bytes, drop_cache=drop_cache)
        try:
            writer = OutputWriter(self.job.layout, place, syncer, self._limits)
            try:
                self._write_chunks(writer, syncer, place)
            finally:
                writer.close()
        finally:
            recorded = syncer.close()
        syncer.check()
        self.stretches = (*self.stretches, *recorded)

    def _write_chunks(self, writer: OutputWriter, syncer: Syncer, place: Place) -> None:
        chunks = encoded_chunks(self.job, pieces_after(self.job, place), self._threads, self._limits)
        with closing(chunks):
            for chunk in chunks:
                syncer.check()
                if chunk is not None:
                    writer.write(chunk.data, chunk.padding)
                    self._count(chunk)
                    self._tell("writing", writer.written_bytes, chunk.piece.tensor.source.name)
                writer.mark_if_due()
                if self._stop.is_set():
                    raise ConversionStopped(
                        f"stopped with {writer.written_bytes:,} of {self.job.layout.total_bytes:,} bytes written"
                    )

    def verify(self) -> Verification:
        """Read everything back. Raises VerificationError for what is not as it was written, ConversionStopped."""
        # Imported here: it brings readers of other packages.
        from quant.convert.verify import verify

        started = time.monotonic()

        def told(read_bytes: int, tensor_name: str) -> None:
            self._tell("verifying", read_bytes, tensor_name)

        verification = verify(self.job, self.stretches, threads=self._threads, progress=told, stop=self._stop)
        self.work = replace(self.work, verifying_s=time.monotonic() - started)
        return verification

    def report(self, verification: Verification | None) -> ConvertReport:
        """What was done, all in all."""
        layout = self.job.layout
        return ConvertReport(
            path=layout.files[0].path if not layout.is_folder else layout.destination,
            files=tuple(file.path for file in layout.files),
            types=type_totals(self.job.tensors),
            file_bytes=layout.total_bytes,
            seconds=time.monotonic() - self._started,
            work=self.work,
            verification=verification,
        )

    def _count(self, chunk: EncodedChunk) -> None:
        self.done_weights += chunk.weights
        if chunk.piece.is_exact:
            self.work = replace(self.work, copied_weights=self.work.copied_weights + chunk.weights)
        else:
            self.work = replace(self.work, encoded_weights=self.work.encoded_weights + chunk.weights)

    def _tell(self, phase: Phase, nbytes: int, tensor_name: str) -> None:
        if self._progress is not None:
            self._progress(
                ConvertProgress(
                    phase=phase,
                    done_weights=self.done_weights,
                    total_weights=self.job.total_weights,
                    written_bytes=nbytes,
                    total_bytes=self.job.layout.total_bytes,
                    resumed_weights=self.work.resumed_weights,
                    resumed_bytes=self.work.resumed_bytes,
                    tensor_name=tensor_name,
                    elapsed_s=time.monotonic() - self._started,
                )
            )


@contextmanager
def _locked_journal(job: ConvertJob) -> Iterator[Journal]:
    """The journal, ours alone until the block ends."""
    folder = job.layout.destination.parent
    if not is_folder(folder):
        raise OutputError(f"the folder {folder} does not exist: create it first")
    if not os.path.lexists(job.layout.journal_path):
        refuse_existing(job.layout)
    journal = Journal(job.layout.journal_path)
    try:
        yield journal
    finally:
        journal.close()


def _forget(job: ConvertJob, journal: Journal) -> None:
    """Give up what is there. Raises OutputError when the output itself is there: that is not ours to remove."""
    refuse_existing(job.layout)
    with suppress(OutputError):
        content = journal.read()
        discard_foreign_parts(job.layout, content.parts if content else ())
    cut_parts(job.layout, _BEGINNING)
    journal.keep(0)


@contextmanager
def _kept(run: _Run, journal: Journal) -> Iterator[None]:
    """Whatever ends the block early leaves something to go on with, or nothing at all if that would hold no weight."""
    try:
        yield
    except VerificationError as error:
        _give_up_from(error.stretch, journal)
        raise
    except BaseException as error:
        if run.done_weights == 0:
            # What cannot be cleared away must not hide what went wrong.
            with suppress(OutputError):
                cut_parts(run.job.layout, _BEGINNING)
            with suppress(OSError):
                journal.remove()
            if isinstance(error, ConversionStopped):
                raise ConversionStopped(f"stopped early: {run.job.layout.destination} was not written") from error
            raise
        if isinstance(error, K2Error):
            raise type(error)(f"{error}. {_GO_ON}") from error
        raise


def _give_up_from(stretch: Stretch | None, journal: Journal) -> None:
    """Cut the journal back to before a stretch that was not read as it was written: the next run writes it again."""
    content = journal.read()
    if stretch is not None and content is not None:
        index = content.stretches.index(stretch)
        journal.keep(content.ends[index - 1] if index else content.first_end)


def _refuse_little_room(job: ConvertJob, held_bytes: int) -> None:
    """Raise OutputError when the disk cannot take what is still to be written."""
    folder, missing = job.layout.destination.parent, job.layout.total_bytes - held_bytes
    free = free_bytes(folder)
    if free < missing:
        kept = f" ({held_bytes:,} are written already)" if held_bytes else ""
        raise OutputError(
            f"{job.layout.destination} takes {job.layout.total_bytes:,} bytes{kept}, but {folder} has {free:,} free: "
            f"free {missing - free:,} bytes or choose another disk"
        )
