"""Events of a thread in the screen's loop."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tui.engine_thread import EngineThread


async def test_items_come_in_order_from_another_thread() -> None:
    def work() -> Iterator[str]:
        yield threading.current_thread().name
        yield from "abc"

    thread = EngineThread()
    name, *items = [item async for item in thread.iterate(work)]
    assert name.startswith("k2lite-engine")
    assert items == ["a", "b", "c"]
    thread.close()


async def test_an_error_comes_after_the_items_before_it() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise LookupError("gone")

    seen = []
    thread = EngineThread()
    with pytest.raises(LookupError, match="gone"):
        async for item in thread.iterate(work):
            seen.append(item)
    assert seen == [1]
    thread.close()


async def test_the_next_work_waits_for_the_end_of_what_nobody_reads_any_more() -> None:
    release, log = threading.Event(), []

    def first() -> Iterator[int]:
        yield 1
        release.wait(60)
        log.append("first ended")

    def second() -> Iterator[int]:
        log.append("second began")
        yield 2

    thread = EngineThread()
    async for _ in thread.iterate(first):
        break
    reading = asyncio.ensure_future(anext(thread.iterate(second)))
    await asyncio.sleep(0.05)
    assert log == []
    release.set()
    assert await reading == 2
    assert log == ["first ended", "second began"]
    thread.close()
