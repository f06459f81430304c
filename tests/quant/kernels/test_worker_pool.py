"""Threads that share a list of tasks, wait quietly and end when asked."""

import gc
import threading
import time

import pytest

from quant.kernels.worker_pool import WorkerPool

IDLE_S = 0.2
IDLE_CPU_S = 0.01


def make_pool(threads: int) -> WorkerPool[list[int]]:
    return WorkerPool(threads, list, "test-pool")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_task_runs_once(threads: int, count: int) -> None:
    pool = make_pool(threads)
    ran: list[int] = []
    pool.run([lambda _, number=number: ran.append(number) for number in range(count)], extra_threads=threads)
    pool.close()
    assert sorted(ran) == list(range(count))


def test_tasks_run_beside_each_other() -> None:
    pool = make_pool(3)
    together = threading.Barrier(3, timeout=10)
    pool.run([lambda _: together.wait()] * 3, extra_threads=2)
    pool.close()
    assert not together.broken


def test_extra_threads_that_are_not_asked_for_do_not_run() -> None:
    pool = make_pool(4)
    names: set[str] = set()
    pool.run([lambda _: names.add(threading.current_thread().name)] * 100, extra_threads=0)
    pool.close()
    assert names == {threading.current_thread().name}


def test_each_thread_has_a_state_of_its_own() -> None:
    pool = make_pool(3)
    seen: list[tuple[int, list[int]]] = []
    together = threading.Barrier(3, timeout=10)

    def note(state: list[int]) -> None:
        together.wait()
        seen.append((threading.get_ident(), state))

    for _ in range(4):
        pool.run([note] * 3, extra_threads=2)
    pool.close()
    assert len({identity for identity, _ in seen}) == 3
    assert len({(identity, id(state)) for identity, state in seen}) == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller_after_the_other_tasks(threads: int) -> None:
    pool = make_pool(threads)
    ran: list[int] = []

    def fail(_: list[int]) -> None:
        raise ValueError("task 3 failed")

    tasks = [fail if number == 3 else lambda _, number=number: ran.append(number) for number in range(10)]
    with pytest.raises(ValueError, match="task 3 failed"):
        pool.run(tasks, extra_threads=2)
    assert sorted(ran) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    pool.run([lambda _: ran.append(10)], extra_threads=2)
    assert ran[-1] == 10
    pool.close()


def test_the_pool_survives_an_interrupted_caller() -> None:
    pool = make_pool(2)

    def interrupt(_: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run([interrupt] * 1, extra_threads=1)
    ran: list[int] = []
    pool.run([lambda _: ran.append(1)] * 20, extra_threads=1)
    pool.close()
    assert len(ran) == 20


def test_callers_take_turns() -> None:
    pool = make_pool(2)
    busy = threading.Lock()
    overlaps: list[bool] = []

    def work(_: list[int]) -> None:
        free = busy.acquire(blocking=False)
        overlaps.append(not free)
        time.sleep(0.001)
        busy.release()

    callers = [threading.Thread(target=lambda: [pool.run([work], extra_threads=0) for _ in range(5)]) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    pool.close()
    assert overlaps == [False] * 15


def test_closing_ends_the_threads() -> None:
    pool = make_pool(4)
    assert [thread.is_alive() for thread in pool.threads] == [True] * 3
    pool.close()
    assert [thread.is_alive() for thread in pool.threads] == [False] * 3
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.run([], extra_threads=0)


def test_dropping_the_pool_ends_the_threads() -> None:
    pool = make_pool(3)
    threads = pool.threads
    del pool
    gc.collect()
    assert [thread.is_alive() for thread in threads] == [False] * 2


def test_waiting_threads_burn_no_processor_time() -> None:
    pool = make_pool(3)
    together = threading.Barrier(3, timeout=10)
    pool.run([lambda _: together.wait()] * 3, extra_threads=2)
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in pool.threads if thread.ident]
    before = [time.clock_gettime(clock) for clock in clocks]
    time.sleep(IDLE_S)
    spent = [time.clock_gettime(clock) - start for clock, start in zip(clocks, before, strict=True)]
    pool.close()
    assert len(spent) == 2
    assert max(spent) < IDLE_CPU_S
