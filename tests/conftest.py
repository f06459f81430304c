"""What all tests share: a machine without settings of its own, the reference data, and tests that are coroutines."""

import asyncio
import inspect
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from k2lite.environment import PREFIX

# Every run tries the same examples, however long a busy machine takes for one.
settings.register_profile("k2lite", deadline=None, derandomize=True)
settings.load_profile("k2lite")


def pytest_configure() -> None:
    """One torch thread: waking others for tensors this small costs more than it brings, most of all beside
    another process. Takes effect because nothing has imported torch yet. What the user has set for k2lite is not
    what is tested. What a script runs in the background ignores Ctrl-C, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with configurations, the tokenizer and golden values. Skips the test where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the reference data (../shared/data beside the project) is not on this machine")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def test_...` in a loop of its own, so that no plugin is needed."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True
