"""How a budget of RAM is shared out: weights that every token needs, buffers, slots for experts."""

from collections.abc import Callable
from dataclasses import dataclass

from k2lite.config import ModelConfig
from k2lite.engine_options import DEFAULT_CHUNK_TOKENS, DEFAULT_CONTEXT_TOKENS
from k2lite.kv_cache import cache_bytes
from k2lite.own_memory import ALLOWED_BYTES, PromptMemory, budget_for, own_bytes, resident_bytes, without_own
from k2lite.sizes import format_bytes
from offload.build import layout_of
from offload.chunk_in_ram import ATTENTION_TOKENS
from offload.free_memory import default_budget_bytes
from offload.memory_options import MemoryOptions
from offload.probe_host import usable_cores
from offload.slabs import SlabMap
from quant.errors import RequestError

# Without cards the arithmetic decides: longer chunks of a prompt would win nothing.
LARGEST_CHUNK_TOKENS = 4096
# For a chunk of so many tokens there is always room; for a longer one slots are given up meanwhile.
_SHORT_TOKENS = 64


@dataclass(frozen=True)
class Placement:
    """How a budget is shared out: bytes for experts' slots, and the longest chunk of a prompt.

    `slot_bytes` None means that everything is mapped; then only cards have use for long chunks. `chunk_bytes` of the
    slots make room for a chunk of so many tokens.
    """

    slot_bytes: int | None
    chunk_tokens: int | None = None
    chunk_bytes: Callable[[int], int] = lambda tokens: 0


@dataclass(frozen=True)
class WeightBytes:
    """What weights take in RAM: all of them, and those that every token needs."""

    total: int
    resident: int


def place(
    weights: WeightBytes,
    config: ModelConfig,
    slabs: Callable[[], SlabMap],
    memory: MemoryOptions,
    watched: bool = False,
    cached_layers: int | None = None,
    card_chunk_tokens: int | None = None,
    cards: int = 0,
) -> Placement:
    """Decide between mapped and paged, and share out the budget. Raises RequestError with the numbers.

    Weights that are `watched` must not come and go: they are mapped, whatever that costs. `cached_layers` of the layers
    have their cache in RAM, all unless given. Real `cards` have buffers for chunks of `card_chunk_tokens`.
    `slabs` is called only where it is no matter of course that all fit.
    """
    given = memory.ram_budget_bytes
    budget = default_budget(config, memory, cached_layers) if given is None else given
    # What is free, where no budget was given, is so beside what this process has taken already.
    itself = 0 if given is None else own_bytes(config, resident_bytes())
    left = without_own(budget, itself)
    prompt = PromptMemory(config, usable_cores(), cards)
    chunk = prompt.longest_chunk(budget, card_chunk_tokens or LARGEST_CHUNK_TOKENS)
    total, resident = weights.total, weights.resident
    fits = total <= budget if given is None else total + prompt.bytes_of(DEFAULT_CHUNK_TOKENS) <= left
    if fits or watched or not slabs().layers:
        _check_mapped(total, budget, memory)
        while given is not None and chunk > ATTENTION_TOKENS and total + prompt.bytes_of(chunk) > left:
            chunk -= ATTENTION_TOKENS
        return Placement(None, chunk)
    buffers = prompt.bytes_of(chunk)
    smallest = layout_of(slabs(), config.experts_per_token).smallest_budget_bytes
    needed = resident + buffers + smallest
    if left < needed:
        raise RequestError(
            f"a RAM budget of {format_bytes(budget)} is too small: weights that every token needs take "
            f"{format_bytes(resident)}, buffers {format_bytes(buffers)} and one expert of each size "
            f"{format_bytes(smallest)}: give --ram-budget {budget_for(needed, itself)} or more"
        )
    always = prompt.kept_bytes(chunk) + prompt.passing_bytes(_SHORT_TOKENS)
    return Placement(left - resident - always, chunk, lambda tokens: max(0, prompt.bytes_of(tokens, chunk) - always))


def budget_with_slots(config: ModelConfig, resident: int, slot_bytes: int) -> int:
    """A RAM budget that leaves about `slot_bytes` for slots beside `resident` bytes of weights, in a fresh process."""
    buffers = PromptMemory(config, usable_cores()).bytes_of(_SHORT_TOKENS, longest=DEFAULT_CHUNK_TOKENS)
    return budget_for(resident + buffers + slot_bytes, own_bytes(config, ALLOWED_BYTES))


def default_budget(config: ModelConfig, memory: MemoryOptions, cached_layers: int | None = None) -> int:
    """What is free, less the cache that will be made there."""
    return default_budget_bytes(cache_bytes(config, context_tokens(config, memory), cached_layers))


def context_tokens(config: ModelConfig, memory: MemoryOptions) -> int:
    """Positions that a cache will be made for."""
    return min(config.context_length, memory.context_tokens or DEFAULT_CONTEXT_TOKENS)


def _check_mapped(total: int, budget: int, memory: MemoryOptions) -> None:
    """Raises RequestError for what has no effect on a model that stays in memory as a whole."""
    if memory.mirror is not None:
        raise RequestError(
            f"--mirror has no effect: all {format_bytes(total)} of the model stay in memory; leave it out, or give a "
            "smaller --ram-budget"
        )
    if total > budget and memory.ram_budget_bytes is not None:
        raise RequestError(
            f"--ram-budget {format_bytes(budget)} is too small: all {format_bytes(total)} of this model are needed at "
            "any time"
        )
