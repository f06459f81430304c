"""How a model is loaded. Nothing here imports torch: the command line takes its defaults from it."""

from dataclasses import dataclass

from quant.errors import RequestError

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_KERNELS = "native"
MAX_THREADS = 512


@dataclass(frozen=True)
class EngineOptions:
    """`context_tokens` None means the model's own context, at most DEFAULT_CONTEXT_TOKENS; `threads` None all cores.

    `pin_threads` keeps each of the kernels' threads on a core of its own.
    """

    context_tokens: int | None = None
    threads: int | None = None
    kernels: str = DEFAULT_KERNELS
    pin_threads: bool = False
    prefill_chunk_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("context_tokens", "threads", "prefill_chunk_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} is {value}, but must be 1 or more")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise RequestError(f"threads is {self.threads}, but must be at most {MAX_THREADS}")

    def context_for(self, model_context_tokens: int) -> int:
        """Positions to keep for a model. Raises RequestError when more are asked for than it was trained on."""
        if self.context_tokens is None:
            return min(model_context_tokens, DEFAULT_CONTEXT_TOKENS)
        if self.context_tokens > model_context_tokens:
            raise RequestError(
                f"a context of {self.context_tokens} tokens was asked for, but the model's is "
                f"{model_context_tokens}: ask for {model_context_tokens} or less (--ctx)"
            )
        return self.context_tokens
