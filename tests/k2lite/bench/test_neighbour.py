"""The process that keeps a core busy."""

import os
import time

import psutil

from k2lite.bench.neighbour import busy_neighbour


def test_it_uses_the_last_core_until_the_block_ends() -> None:
    with busy_neighbour() as core:
        children = psutil.Process().children()
        assert core == max(os.sched_getaffinity(0))
        assert [child.cpu_affinity() for child in children] == [[core]]
        before = children[0].cpu_times().user
        deadline = time.monotonic() + 20
        while children[0].cpu_times().user <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert children[0].cpu_times().user > before
    assert not children[0].is_running()
