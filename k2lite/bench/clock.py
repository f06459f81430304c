"""Times of the parts of a token, by stage of the model and by kernel call."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

# Kernel calls outside of a layer's stages, and what they are for. A pass is for several, see `Clock.part`.
KERNELS_OF_STAGE = {"rows": "embedding", "linear": "head", "experts": "dense layers", "pass": None}


class Clock:
    """Adds up seconds. A stage is a part of the model; a kernel call counts for the stage that it is made in."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._in_kernel = False
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._tokens: list[tuple[float, dict[tuple[str, str], float], Counter[str]]] = []
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._calls: Counter[str] = Counter()

    def stage(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, timed as a stage. Stages do not contain each other."""

        def timed(*arguments: Any, **options: Any) -> Any:
            self._stage = name
            started = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self._seconds["stage", name] += time.perf_counter() - started
                self._stage = None

        return timed

    def kernel(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, timed as a kernel call. One that is made by another counts as part of that."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._in_kernel:
                return work(*arguments, **options)
            self._in_kernel = True
            started = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                seconds = time.perf_counter() - started
                self._in_kernel = False
                self._count_kernel(name, seconds)

        return timed

    def part(self, stage: str, seconds: float) -> None:
        """A part of a kernel call that was for several stages."""
        self._seconds["stage", stage] += seconds
        self._seconds["in", stage] += seconds

    def end_token(self, forward_s: float, total_s: float) -> None:
        """A token is done: `forward_s` in the model, `total_s` with sampling."""
        self._seconds["stage", "sampling"] = total_s - forward_s
        known = sum(
            seconds for (kind, name), seconds in self._seconds.items() if kind == "stage" and name != "sampling"
        )
        self._seconds["stage", "norms and rest"] = forward_s - known
        self._tokens.append((total_s, self._seconds, self._calls))
        self._seconds, self._calls = defaultdict(float), Counter()

    def summary(self) -> dict[str, Any]:
        """Milliseconds per token, averaged over the faster half of the tokens: the others were disturbed most."""
        fastest = sorted(self._tokens, key=lambda token: token[0])[: max(1, (len(self._tokens) + 1) // 2)]
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        calls: Counter[str] = Counter()
        for _, more_seconds, more_calls in fastest:
            for key, value in more_seconds.items():
                seconds[key] += value
            calls.update(more_calls)
        ms = {key: 1000 * value / len(fastest) for key, value in seconds.items()}
        stages = {
            name: {"ms": ms["stage", name], "kernel_ms": ms.get(("in", name), 0.0)}
            for kind, name in ms
            if kind == "stage"
        }
        kernels = {
            name: {"ms": ms["kernel", name], "calls": calls[name] / len(fastest)}
            for kind, name in ms
            if kind == "kernel"
        }
        total = sum(stage["ms"] for stage in stages.values())
        return {
            "total_ms": total,
            "outside_kernels_ms": total - sum(kernel["ms"] for kernel in kernels.values()),
            "stages": dict(sorted(stages.items(), key=lambda item: -item[1]["ms"])),
            "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1]["ms"])),
        }

    def _count_kernel(self, name: str, seconds: float) -> None:
        stage = self._stage
        if stage is None:
            stage = KERNELS_OF_STAGE.get(name, name)
            if stage is not None:
                self._seconds["stage", stage] += seconds
        if stage is not None:
            self._seconds["in", stage] += seconds
        self._seconds["kernel", name] += seconds
        self._calls[name] += 1
