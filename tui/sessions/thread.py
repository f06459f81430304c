"""The one thread that reads and writes the database, and how the screen asks it."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from quant.errors import K2Error
from tui.errors import SessionError
from tui.sessions.store import SessionStore

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class SessionThread:
    """Opens the store in its thread, runs its methods there in order, and finishes all of them before it closes.

    `path` None keeps nothing: every call then raises SessionError, as it does when the file could not be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="k2lite-sessions")
        self._store: SessionStore | None = None
        self._error: K2Error = SessionError("conversations are not saved: k2lite chat was started with --no-save")

    @property
    def available(self) -> bool:
        """Whether conversations are being saved."""
        return self._store is not None

    async def open(self) -> str:
        """Open or create the file; returns what the user should know, "" when nothing. Raises SessionError."""
        if self._path is None:
            return ""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._open, self._path)

    async def call(
        self,
        method: Callable[Concatenate[SessionStore, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """Run a method of SessionStore. Raises SessionError."""
        return await asyncio.wrap_future(self.submit(method, *arguments, **named))

    def submit(
        self,
        method: Callable[Concatenate[SessionStore, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> "concurrent.futures.Future[Result]":
        """The same without waiting for it."""

        def work() -> Result:
            if self._store is None:
                raise self._error
            return method(self._store, *arguments, **named)

        return self._executor.submit(work)

    def close(self) -> None:
        """Wait for what is still to be written, then close the file. Safe to call twice."""
        with suppress(RuntimeError):  # closed before
            self._executor.submit(self._close)
        self._executor.shutdown(wait=True)

    def _open(self, path: Path) -> str:
        try:
            self._store = SessionStore(path)
            self._store.empty_trash()
        except K2Error as error:
            self._error = error
            raise
        return self._store.notice

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
