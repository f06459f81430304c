"""What is special to the native kernels: threads, the way of other types to other kernels, errors beside ggml's."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quant import native_library
from quant.errors import LibraryError
from quant.kernels import Kernels, make_kernels
from quant.kernels.ggml import GgmlKernels
from quant.kernels.native import NativeKernels
from quant.native_library import load_native
from quant.nf4.values import NF4
from quant.types import BLOCK_TYPES, BlockType, block_type
from tests.quant.kernels.samples import call, expert, random
from tests.quant.kernels.test_kernels import THREE_PRODUCTS, check, exact_experts
from tests.quant.random_weights import exact_values, random_weights

OWN = [block for block in BLOCK_TYPES if load_native().multiplies(block.ggml_id)]
NO_WORSE = 1.02  # than ggml's error; both are those of the rounded activations, which differ a little


def tasks() -> set[str]:
    folder = Path("/proc/self/task")
    if not folder.exists():
        pytest.skip("no /proc/self/task on this system")
    return {task.name for task in folder.iterdir()}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).pow(2).mean().sqrt())


def test_these_types_are_its_own() -> None:
    names = {block.name for block in OWN}
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"} <= names
    assert load_native().multiplies(NF4.ggml_id)


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("block", OWN, ids=str)
def test_errors_are_no_larger_than_ggmls(block: BlockType, tokens: int) -> None:
    x, w = random(tokens, 1024), random_weights(block, (500, 1024))
    exact = x.double() @ exact_values(w).T
    own, ggml = make_kernels("native", 2), make_kernels("ggml", 2)
    assert error(own.linear(x, w), exact) <= NO_WORSE * error(ggml.linear(x, w), exact) + 1e-7 * float(exact.std())
    own.close()
    ggml.close()


def test_other_types_are_given_to_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("linear", "linear_heads", "experts"):
        inner = getattr(GgmlKernels, name)
        monkeypatch.setattr(
            GgmlKernels,
            name,
            lambda self, x, w, name=name, inner=inner: (asked.append(name), inner(self, x, w))[1],
        )
    kernels = NativeKernels(2)
    rare, own = random_weights(block_type("Q3_K"), (2, 70, 256)), random_weights(block_type("Q4_K"), (2, 70, 256))
    x = random(3, 2, 256)
    kernels.linear(x[:, 0], own.slab(0))
    kernels.linear_heads(x, own)
    assert asked == []
    check(kernels.linear(x[:, 0], rare.slab(0)), x[:, 0].double() @ exact_values(rare)[0].T, 1e-2)
    kernels.linear_heads(x, rare)
    assert asked == ["linear", "linear_heads"]
    kernels.close()


@pytest.mark.parametrize("ggml_is_there", [True, False])
def test_experts_with_a_rare_matrix_are_given_away_whole(monkeypatch: pytest.MonkeyPatch, ggml_is_there: bool) -> None:
    def missing(threads: int) -> Kernels:
        raise LibraryError("no ggml")

    if not ggml_is_there:
        monkeypatch.setattr("quant.kernels.ggml.GgmlKernels", missing)
    x = random(6, 256)
    calls = [
        call(expert("Q4_K Q4_K Q6_K", 512, 256, 1), [0, 2, 5]),
        call(expert("Q4_K Q4_K Q3_K", 512, 256, 2), [1, 2]),
        call(expert("Q2_K Q8_0 Q8_0", 64, 256, 3), range(6)),
        call(expert("Q8_0 Q8_0 F16", 64, 256, 4), [3]),
    ]
    kernels = NativeKernels(2)
    check(kernels.experts(x, calls), exact_experts(x, calls), THREE_PRODUCTS * 1e-2)
    kernels.close()
    with pytest.raises(RuntimeError, match="closed"):
        kernels.experts(x, calls)
    with pytest.raises(RuntimeError, match="closed"):
        kernels.linear(x, calls[2].weights.gate)


def test_closing_and_dropping_end_the_threads() -> None:
    before = tasks()
    kernels = [NativeKernels(3), NativeKernels(2)]
    assert len(tasks() - before) == 3
    kernels[0].close()
    assert len(tasks() - before) == 1
    kernels.clear()
    gc.collect()
    assert tasks() <= before


def test_it_may_be_closed_while_another_thread_computes() -> None:
    kernels = NativeKernels(2)
    x, w = random(20, 512), random_weights(block_type("Q4_K"), (2000, 512))
    expected = kernels.linear(x, w)
    started, outcomes = threading.Event(), []

    def ask() -> None:
        try:
            while True:
                outcomes.append(torch.equal(kernels.linear(x, w), expected))
                started.set()
        except RuntimeError as closed:
            outcomes.append("closed" in str(closed))

    asking = threading.Thread(target=ask)
    asking.start()
    assert started.wait(10)
    kernels.close()
    asking.join(10)
    assert not asking.is_alive()
    assert all(outcomes)


def test_an_experts_record_is_made_once() -> None:
    weights = expert("Q8_0 Q8_0 Q8_0", 32, 64, 1)
    assert weights.record is weights.record
    assert len(weights.record) == 56


def test_a_library_that_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "libk2quant.so")
    monkeypatch.setattr("quant.kernels.native.load_native", load_native.__wrapped__)
    with pytest.raises(LibraryError, match="build it with"):
        make_kernels("native", 2)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind threads to cores")
def test_pinned_threads_have_a_core_each_and_the_caller_has_all() -> None:
    before = set(Path("/proc/self/task").iterdir())
    allowed = os.sched_getaffinity(0)
    kernels = make_kernels("native", 2, pin=True)
    try:
        (started,) = set(Path("/proc/self/task").iterdir()) - before
        assert len(os.sched_getaffinity(int(started.name))) == 1
        assert os.sched_getaffinity(0) == allowed
    finally:
        kernels.close()
