"""What a measurement shall do. Nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path

from quant.errors import RequestError

LLAMA_CPP = "llama.cpp"

# Decoded before the clock starts: caches and clocks of the processor are what they are in the middle of an answer.
WARM_UP_TOKENS = 2


@dataclass(frozen=True)
class BenchOptions:
    """`path` is a GGUF file; `prefill_tokens` prompt lengths; `depth` how many tokens precede those that are decoded.

    `threads` None means all physical cores, `context_tokens` None as many positions as the measurement needs.
    """

    path: Path
    prefill_tokens: tuple[int, ...] = (512,)
    decode_tokens: int = 32
    depth: int = 0
    rounds: int = 5
    threads: int | None = None
    pin_threads: bool = False
    kernels: str | None = None
    context_tokens: int | None = None
    against: str | None = None
    busy_neighbour: bool = False
    memory_limit_bytes: int | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        for name in ("decode_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}, but must be 1 or more")
        if self.depth < 0 or any(tokens < 1 for tokens in self.prefill_tokens):
            raise RequestError("there are no prompts of less than 1 token")
        if self.context_tokens is not None and self.context_tokens < self.needed_tokens:
            raise RequestError(
                f"a context of {self.context_tokens} tokens does not hold the {self.needed_tokens} that are measured: "
                "raise --ctx or measure fewer"
            )

    @property
    def needed_tokens(self) -> int:
        """Positions that the longest measurement takes."""
        return max(*self.prefill_tokens, self.depth + WARM_UP_TOKENS + self.decode_tokens, 1)

    @property
    def capacity(self) -> int:
        """Positions that both sides keep."""
        return self.context_tokens or self.needed_tokens
