"""Threads of the native library: how many, what they read, when they are quiet, and how they end."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.native_library import ISAS, load_native
from quant.types import block_type
from tests.quant.kernels.samples import random
from tests.quant.native.jobs import linear, pool, threads_of
from tests.quant.random_weights import random_weights

ROOT = Path(__file__).resolve().parents[3]
IDLE_S = 0.2
IDLE_CPU_S = 0.02


def tasks() -> set[str]:
    folder = Path("/proc/self/task")
    if not folder.exists():
        pytest.skip("no /proc/self/task on this system")
    return {task.name for task in folder.iterdir()}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_callers_thread_is_one_of_them_and_the_others_end(threads: int) -> None:
    before = tasks()
    with pool(threads) as opened:
        assert threads_of(opened) == threads
        assert len(tasks() - before) == threads - 1
    assert tasks() <= before


@pytest.mark.parametrize("arguments", [(0, 1, 0), (-1, 1, 0), (1, -1, 0)])
def test_no_threads_or_nodes(arguments: tuple[int, int, int]) -> None:
    opened = ctypes.c_void_p()
    with pytest.raises(ValueError, match="k2quant_pool_open does not take"):
        load_native().call("k2quant_pool_open", *arguments, ctypes.addressof(opened))
    assert opened.value is None


def test_no_pool() -> None:
    library, out = load_native(), ctypes.c_uint64()
    for name, arguments in [
        ("k2quant_pool_open", (1, 1, 0, None)),
        ("k2quant_pool_close", (None,)),
        ("k2quant_read_roof", (None, ctypes.addressof(out), 8, ctypes.addressof(out))),
    ]:
        with pytest.raises(ValueError, match=f"{name} does not take"):
            library.call(name, *arguments)
    assert library._functions["k2quant_pool_threads"](ISAS["portable"], None) == 0


def test_more_threads_than_any_machine_has_are_an_error() -> None:
    opened = ctypes.c_void_p()
    with pytest.raises(MemoryError):
        load_native().call("k2quant_pool_open", 1 << 20, 1, 0, ctypes.addressof(opened))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4096, (3 << 20) + 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_byte_is_read(isa: str, threads: int, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size + 1, dtype=np.uint8)
    words = np.zeros(-(-size // 8) * 8, dtype=np.uint8)
    words[:size] = data[:size]
    found = ctypes.c_uint64()
    with pool(threads) as opened:
        load_native().call("k2quant_read_roof", opened, data.ctypes.data, size, ctypes.addressof(found))
    assert found.value == int(words.view(np.uint64).sum(dtype=np.uint64))


def test_the_process_is_quiet_after_a_product() -> None:
    w = random_weights(block_type("Q8_0"), (4000, 512))
    with pool(4) as opened:
        linear(opened, random(8, 512), w)
        before = time.process_time()
        time.sleep(IDLE_S)
        spent = time.process_time() - before
    assert spent < IDLE_CPU_S


@pytest.mark.parametrize(
    ("threads", "nodes", "pin"), [(2, 2, 0), (5, 2, 0), (3, 3, 1), (2, 0, 0), (2, 1, 1), (40, 1, 0)]
)
def test_any_division_of_the_machine_gives_the_same(threads: int, nodes: int, pin: int) -> None:
    x, w = random(3, 512), random_weights(block_type("Q8_0"), (3001, 512))
    with pool(1) as alone, pool(threads, nodes, pin) as opened:
        expected = linear(alone, x, w)
        assert all(torch.equal(linear(opened, x, w), expected) for _ in range(20))


def test_callers_get_their_own_results() -> None:
    w = random_weights(block_type("Q8_0"), (3001, 512))
    asked = [random(tokens, 512, seed=tokens) for tokens in (1, 2, 9, 30)]
    wrong: list[int] = []
    with pool(3) as opened:
        expected = [linear(opened, x, w) for x in asked]

        def ask(number: int) -> None:
            wrong.extend(
                number for _ in range(10) if not torch.equal(linear(opened, asked[number], w), expected[number])
            )

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_of_fork_computes_and_closes() -> None:
    code = """
import os
from tests.quant.native.jobs import linear, pool
from tests.quant.kernels.samples import random
from tests.quant.random_weights import random_weights
from quant.types import block_type
x, w = random(4, 512), random_weights(block_type("Q8_0"), (4000, 512))
with pool(3) as opened:
    linear(opened, x, w)
    child = os.fork()
    assert linear(opened, x, w).isfinite().all()
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "7", result.stderr


def test_signals_go_to_the_threads_of_the_program() -> None:
    status = Path("/proc/self/task")
    if not status.exists():
        pytest.skip("no /proc/self/task on this system")
    before = tasks()
    with pool(3):
        for number in tasks() - before:
            lines = (status / number / "status").read_text().splitlines()
            blocked = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
            assert blocked >> (signal.SIGINT - 1) & 1
