"""The proof at the end of a conversion, before the output gets its name.

Three questions: are the bytes on the drive those that were written (digests of everything), do they mean what the
source says (a sample of rows of every tensor), and do programs of others read the files as they were meant?
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from quant.convert.job_types import ConversionStopped, ConvertJob, Stretch
from quant.convert.pipeline import one_torch_thread
from quant.convert.verify_files import ReadBack
from quant.convert.verify_format import check_format
from quant.convert.verify_result import Verification
from quant.convert.verify_rows import SampleErrors, compare, samples, summary

# Each holds a part as float32 and what it was decoded from, a fifth of a gigabyte for an expert of K2.
_MAX_READERS = 4

_TICK_S = 0.1


def verify(
    job: ConvertJob,
    stretches: Sequence[Stretch],
    *,
    threads: int = 1,
    progress: Callable[[int, str], None] | None = None,
    stop: threading.Event | None = None,
    seed: int = 0,
) -> Verification:
    """Verify the part files of `job`. `stretches` must cover every byte of every file, in order, all of it synced.

    `progress(bytes read back, tensor name)` is called in this thread, several times a second; rows are compared in
    `threads` others meanwhile, and to some length afterwards. Call it before files are renamed, with the lock held.

    Raises VerificationError, which says from where on to write again; ConversionStopped within a second after `stop`
    was set; and what reading the source raises. Nothing is changed in any case.
    """
    back = ReadBack(job.layout, stretches, progress, stop)
    with one_torch_thread(), _workers(min(max(threads, 1), _MAX_READERS)) as workers:
        comparing = [workers.submit(compare, job, sample, stretches) for sample in samples(job, seed)]
        files = back.run()
        witnesses = check_format(job, stop)
        by_tensor: dict[str, list[SampleErrors]] = {}
        for found in _finished(comparing, stop, job):
            name = found.sample.tensor.source.name
            by_tensor.setdefault(name, []).append(found)
            if progress is not None:
                progress(back.read_bytes, name)
    tensors = {name: summary(found) for name, found in by_tensor.items()}
    return Verification(files, tensors, len(stretches), witnesses)


def _finished(
    comparing: list[Future[SampleErrors]], stop: threading.Event | None, job: ConvertJob
) -> Iterator[SampleErrors]:
    for future in comparing:
        done = False
        while not done:
            done = bool(wait([future], _TICK_S).done)
            if stop is not None and stop.is_set():
                raise ConversionStopped(f"stopped while {job.layout.destination} was verified: everything is written")
        yield future.result()


@contextmanager
def _workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that forget what has not begun when the block is left for whatever reason."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
