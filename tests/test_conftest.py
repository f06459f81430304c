"""The hook that runs coroutine tests. Without it pytest reports such a test as failed."""

import asyncio
from pathlib import Path


async def test_coroutines_run_in_a_loop_and_get_their_fixtures(tmp_path: Path) -> None:
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().is_running()
    assert tmp_path.is_dir()
