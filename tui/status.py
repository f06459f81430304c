"""The status line: where loading, the prompt or the answer stands, in numbers."""

from k2lite.events import EngineInfo, Finished, LoadProgress, PrefillProgress
from k2lite.sizes import format_bytes, format_duration

_STAGES = {"quantize": "preparing the demo model (once)", "load": "loading"}
_REASONS = {"stop": "", "length": " · cut off: no room left or limit reached", "cancelled": " · stopped"}

STARTING = "starting the engine"
READY = "ready"
UNLOADED = "no model is loaded: the next question tries again"


def load_status(progress: LoadProgress) -> str:
    """As in "loading 1.2 of 4.8 GiB (25 %)"."""
    share = _percent(progress.done_bytes, progress.total_bytes)
    return (
        f"{_STAGES[progress.stage]} {format_bytes(progress.done_bytes)} of "
        f"{format_bytes(progress.total_bytes)} ({share})"
    )


def prefill_status(progress: PrefillProgress) -> str:
    """As in "prompt 12,288/30,100 (41 %) 210 tok/s ETA 1:25"."""
    line = (
        f"prompt {progress.done_tokens:,}/{progress.total_tokens:,} "
        f"({_percent(progress.done_tokens, progress.total_tokens)})"
    )
    computed = progress.done_tokens - progress.cached_tokens
    if computed and progress.elapsed_s > 0:
        rate = computed / progress.elapsed_s
        left = (progress.total_tokens - progress.done_tokens) / rate
        line += f" {rate:.1f} tok/s ETA {format_duration(left)}"
    elif progress.cached_tokens:
        line += f" {progress.cached_tokens:,} of them kept"
    return line


def decode_status(rate: float, tokens: int, used_tokens: int, context_tokens: int) -> str:
    """As in "4.8 tok/s · 1,204 tok · ctx 31,304/131,072 (24 %)"."""
    return f"{rate:.1f} tok/s · {tokens:,} tok · {_context(used_tokens, context_tokens)}"


def finished_status(finished: Finished, context_tokens: int) -> str:
    """The same with the mean rate, and how the answer ended when that was not by itself."""
    used = finished.prompt_tokens + finished.completion_tokens
    line = decode_status(finished.decode_tokens_per_s, finished.completion_tokens, used, context_tokens)
    return f"{line}{_REASONS[finished.reason]}"


def title(info: EngineInfo) -> str:
    """As in "Kimi-K2 · Q4_K · 578 GiB · context 8,192"."""
    return (
        f"{info.model_name} · {info.quantization} · {format_bytes(info.weight_bytes)} · context {info.context_tokens:,}"
    )


def _context(used: int, total: int) -> str:
    return f"ctx {used:,}/{total:,} ({_percent(used, total)})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"
