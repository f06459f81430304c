"""How a model is loaded. Nothing here imports torch: the command line takes its defaults from it."""

from dataclasses import dataclass
from pathlib import Path

from k2lite.devices import limit_cards, parse_devices
from offload.memory_options import MemoryOptions
from quant.errors import RequestError

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_KERNELS = "native"
DEFAULT_CHUNK_TOKENS = 512
MAX_THREADS = 512


@dataclass(frozen=True)
class EngineOptions:
    """`context_tokens` None means the model's own context, at most DEFAULT_CONTEXT_TOKENS; `threads` None all cores.

    `pin_threads` keeps each of the kernels' threads on a core of its own.
    `prefill_chunk_tokens` None leaves it to where the experts are. Budgets, `devices` and `mirror`: see
    offload.memory_options; a budget of VRAM is for each card. `record_routing` names a file (k2lite.routing_trace).
    """

    context_tokens: int | None = None
    threads: int | None = None
    kernels: str = DEFAULT_KERNELS
    pin_threads: bool = False
    prefill_chunk_tokens: int | None = None
    ram_budget_bytes: int | None = None
    vram_budget_bytes: int | None = None
    devices: str | None = None
    mirror: str | None = None
    record_routing: str | None = None

    def __post_init__(self) -> None:
        for name in ("context_tokens", "threads", "prefill_chunk_tokens", "ram_budget_bytes", "vram_budget_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} is {value}, but must be 1 or more")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise RequestError(f"threads is {self.threads}, but must be at most {MAX_THREADS}")

        if self.vram_budget_bytes is not None and self.devices is None:
            raise RequestError("--vram-budget has no effect without cards: name some with --devices, or leave it out")
        self.memory  # noqa: B018  # refuses devices that cannot be

    @property
    def memory(self) -> MemoryOptions:
        """Where experts may live. Raises RequestError for devices that are none, or that a budget does not limit."""
        try:
            cards = () if self.devices is None else parse_devices(self.devices)
            if self.vram_budget_bytes is not None:
                cards = limit_cards(cards, self.vram_budget_bytes)
        except ValueError as error:
            raise RequestError(str(error)) from error
        mirror = None if self.mirror is None else Path(self.mirror)
        return MemoryOptions(self.ram_budget_bytes, cards, mirror, self.context_tokens)

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
