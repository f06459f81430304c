"""The status line: where loading, the prompt or the answer stands, in numbers."""

from k2lite.events import EngineInfo, Finished, LoadProgress, PrefillProgress
from k2lite.sizes import format_bytes, format_duration

_STAGES = {"quantize": "preparing the demo model (once)", "load": "loading"}
_REASONS = {"stop": "", "length": " · cut off: no room left or limit reached", "cancelled": " · stopped"}

STARTING = "starting the engine"
READY = "ready"
UNLOADED = "no model: the next question tries again, F5 has others"
STOPPING = "stopping"


def load_status(progress: LoadProgress, elapsed_s: float = 0.0) -> str:
    """As in "loading 1.2 of 4.8 GiB (25 %) 0:30 left"; the time once there is something to go by."""
    share = _percent(progress.done_bytes, progress.total_bytes)
    line = (
        f"{_STAGES[progress.stage]} {format_bytes(progress.done_bytes)} of "
        f"{format_bytes(progress.total_bytes)} ({share})"
    )
    if elapsed_s >= 1 and progress.done_bytes:
        left = (progress.total_bytes - progress.done_bytes) * elapsed_s / progress.done_bytes
        line += f" {format_duration(left)} left"
    return line


def prefill_status(progress: PrefillProgress) -> str:
    """As in "prompt 12,288 / 30,100 tokens (41 %), 210 tok/s, 1:25 left"."""
    line = (
        f"prompt {progress.done_tokens:,} / {progress.total_tokens:,} tokens "
        f"({_percent(progress.done_tokens, progress.total_tokens)})"
    )
    computed = progress.done_tokens - progress.cached_tokens
    if computed > 0 and progress.elapsed_s > 0:
        rate = computed / progress.elapsed_s
        left = (progress.total_tokens - progress.done_tokens) / rate
        line += f", {rate:.1f} tok/s, {format_duration(left)} left"
    elif progress.cached_tokens:
        line += f", {progress.cached_tokens:,} of them kept"
    return line


def decode_status(rate: float, tokens: int, first_token_s: float | None = None) -> str:
    """As in "4.8 tok/s · 1,204 tok · first after 0.8 s"."""
    first = "" if first_token_s is None else f" · first after {_seconds(first_token_s)}"
    return f"{rate:.1f} tok/s · {tokens:,} tok{first}"


def finished_status(finished: Finished, first_token_s: float | None = None) -> str:
    """The same with the mean rate, and how the answer ended when that was not by itself."""
    line = decode_status(finished.decode_tokens_per_s, finished.completion_tokens, first_token_s)
    return f"{line}{_REASONS.get(finished.reason, '')}"


def title(info: EngineInfo) -> str:
    """As in "Kimi-K2 · Q4_K · 578 GiB · context 8,192"."""
    return (
        f"{info.model_name} · {info.quantization} · {format_bytes(info.weight_bytes)} · context {info.context_tokens:,}"
    )


def context_gauge(used: int, total: int) -> str:
    """As in "ctx 31,304/131,072 (24 %)"."""
    return f"ctx {used:,}/{total:,} ({_percent(used, total)})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else format_duration(seconds)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"
