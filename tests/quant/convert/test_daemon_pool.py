"""Calls run beside each other and are forgotten when nobody waits for them."""

import threading
import weakref

import pytest

from quant.convert.daemon_pool import DaemonPool

WAIT_S = 30


class Value:
    """Something that can be watched."""


def test_results_and_errors_come_back() -> None:
    pool = DaemonPool(2)
    good, bad = pool.submit(lambda: 7), pool.submit(lambda: 1 / 0)
    assert good.result(WAIT_S) == 7
    with pytest.raises(ZeroDivisionError):
        bad.result(WAIT_S)
    pool.close(WAIT_S)


def test_calls_run_at_the_same_time() -> None:
    barrier, pool = threading.Barrier(3), DaemonPool(3)
    futures = [pool.submit(lambda: barrier.wait(WAIT_S)) for _ in range(3)]
    assert sorted(future.result(WAIT_S) for future in futures) == [0, 1, 2]
    pool.close(WAIT_S)


def test_closing_drops_what_has_not_begun_and_leaves_alone_what_takes_long() -> None:
    before, pool = threading.active_count(), DaemonPool(1)
    begun, go_on = threading.Event(), threading.Event()
    running = pool.submit(lambda: (begun.set(), go_on.wait(WAIT_S)))
    waiting = pool.submit(lambda: 1)
    assert begun.wait(WAIT_S)
    pool.close(0)
    assert waiting.cancelled() and not running.done()
    go_on.set()
    running.result(WAIT_S)
    pool.close(WAIT_S)
    assert threading.active_count() == before


def test_nothing_is_held_when_a_call_is_over() -> None:
    pool, value = DaemonPool(1), Value()
    watched = weakref.ref(value)
    pool.submit(lambda value=value: None).result(WAIT_S)
    pool.submit(lambda: None).result(WAIT_S)
    del value
    assert watched() is None
    pool.close(WAIT_S)
