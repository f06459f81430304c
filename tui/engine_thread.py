"""The one thread in which the screen's engine works, and how its events reach the screen."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")


class EngineThread:
    """Runs iterators one after another in a thread of its own: two can never overlap, whatever the screen does.

    Nothing waits for the thread when the app ends: setting stop, and closing the engine, is what ends its work.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="k2lite-engine")

    def close(self) -> None:
        """Take no more work; the thread ends with what it is doing now."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], Item]) -> Item:
        """Call `work` in the thread, after what it is doing now."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def iterate(self, start: Callable[[], Iterator[Item]]) -> AsyncIterator[Item]:
        """The items of `start()`, which is called and iterated in the thread; raises what it raises."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Item | None] = asyncio.Queue()

        def work() -> None:
            try:
                for item in start():
                    loop.call_soon_threadsafe(arrived.put_nowait, item)
            finally:
                with suppress(RuntimeError):  # the app has ended, and its loop with it
                    loop.call_soon_threadsafe(arrived.put_nowait, None)

        working = loop.run_in_executor(self._executor, work)
        while (item := await arrived.get()) is not None:
            yield item
        await working
