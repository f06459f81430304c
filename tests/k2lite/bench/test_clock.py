"""The clocks of a profile, with a time that the test makes."""

import pytest

from k2lite.bench import clock as clock_module
from k2lite.bench.clock import Clock


class Time:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock_module, "time", time)
    return time


def test_a_kernel_call_counts_for_the_stage_it_is_made_in(time: Time) -> None:
    clock = Clock()
    linear = clock.kernel("linear", lambda: time.passes(0.003))

    def attention() -> None:
        time.passes(0.001)
        linear()

    clock.stage("attention", attention)()
    linear()  # outside of a layer: the head
    clock.end_token(forward_s=0.010, total_s=0.012)
    summary = clock.summary()
    stages = {name: (round(s["ms"], 6), round(s["kernel_ms"], 6)) for name, s in summary["stages"].items()}
    assert stages == {"attention": (4, 3), "head": (3, 3), "norms and rest": (3, 0), "sampling": (2, 0)}
    assert summary["kernels"]["linear"]["calls"] == 2
    assert summary["total_ms"] == pytest.approx(12)
    assert summary["outside_kernels_ms"] == pytest.approx(6)


def test_a_kernel_inside_of_a_kernel_is_not_counted_twice(time: Time) -> None:
    clock = Clock()
    inner = clock.kernel("rows", lambda: time.passes(0.002))
    clock.kernel("linear", inner)()
    clock.end_token(forward_s=0.002, total_s=0.002)
    assert list(clock.summary()["kernels"]) == ["linear"]


def test_the_slower_half_of_the_tokens_is_left_out(time: Time) -> None:
    clock = Clock()
    for ms in (1, 50, 2, 60):
        clock.stage("attention", lambda ms=ms: time.passes(ms / 1000))()
        clock.end_token(forward_s=ms / 1000, total_s=ms / 1000)
    assert clock.summary()["total_ms"] == pytest.approx(1.5)


def test_forgetting_drops_what_was_before(time: Time) -> None:
    clock = Clock()
    clock.stage("attention", lambda: time.passes(1.0))()
    clock.forget()
    clock.stage("router", lambda: time.passes(0.001))()
    clock.end_token(forward_s=0.001, total_s=0.001)
    assert "attention" not in clock.summary()["stages"]


def test_a_stage_that_fails_is_over(time: Time) -> None:
    clock = Clock()

    def fails() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        clock.stage("attention", fails)()
    clock.kernel("linear", lambda: time.passes(0.001))()
    clock.end_token(forward_s=0.001, total_s=0.001)
    assert clock.summary()["stages"]["head"]["kernel_ms"] == pytest.approx(1)


def test_a_call_for_several_stages_is_shared_out_by_its_parts(time: Time) -> None:
    clock = Clock()
    clock.kernel("pass", lambda: time.passes(0.010))()
    clock.part("attention", 0.003)
    clock.part("experts", 0.006)
    clock.end_token(forward_s=0.011, total_s=0.011)
    summary = clock.summary()
    stages = {name: (round(s["ms"], 6), round(s["kernel_ms"], 6)) for name, s in summary["stages"].items()}
    assert stages == {"attention": (3, 3), "experts": (6, 6), "norms and rest": (2, 0), "sampling": (0, 0)}
    assert summary["outside_kernels_ms"] == pytest.approx(1)
