"""What this process takes beside weights, experts' slots and the KV cache: itself at rest, and buffers of a prompt.

All but a fixed allowance is counted into the RAM budget, so that the most memory ever resident is known beforehand.
"""

from dataclasses import dataclass

import psutil

from k2lite.config import ModelConfig
from offload.chunk_in_ram import ATTENTION_TOKENS, chunk_in_ram, token_bytes

# Python with torch and its libraries, as far as it is not counted. docs/offloading.md promises 300 MB: what is left is
# for what nobody foresees, holes in the heap for one.
ALLOWED_BYTES = 260_000_000
# Of a small budget, so that a small model can be paged by any process, for a test or to see it work.
_LARGEST_SHARE = 16
# The tokenizer's tables, which are made with the first prompt: K2's take 80 MB.
_ENCODER_BYTES_OF_A_TOKEN = 550

# Of the native kernels: activations in 8 bits with their scales and sums; hidden values of as many experts as go
# together, as floats and in 8 bits; a quarter more than is asked for; and what each thread has for a few rows.
_BYTES_IN_8_BITS = 1.375
_VALUES_TOGETHER, _ROWS_TOGETHER = 8 << 20, 1024
_KERNEL_SPARE = 1.25
_ROWS_OF_A_THREAD = 256


@dataclass(frozen=True)
class PromptMemory:
    """Bytes that a chunk of so many tokens takes in RAM, with kernels of so many threads, beside so many real cards."""

    config: ModelConfig
    threads: int
    cards: int = 0

    def bytes_of(self, tokens: int, longest: int = 0) -> int:
        """All that there is while a chunk is computed, when the longest one so far had `longest` tokens."""
        return self.passing_bytes(tokens) + self.kept_bytes(max(tokens, longest))

    def passing_bytes(self, tokens: int) -> int:
        """Activations, given back when the chunk is done."""
        c = self.config
        in_part = min(tokens, ATTENTION_TOKENS) * (c.hidden_size + c.n_heads * (c.head_dim + c.v_dim))
        return 4 * in_part + tokens * token_bytes(4 * c.hidden_size, self.cards)

    def kept_bytes(self, tokens: int) -> int:
        """What the kernels take for their own work and keep: as much as the longest chunk needed."""
        c = self.config
        rows = min(tokens * c.experts_per_token, tokens + _ROWS_TOGETHER)
        hidden = max(tokens * (c.dense_width if c.n_dense_layers else c.shared_width), rows * c.expert_width)
        values = min(hidden, _VALUES_TOGETHER) * (4 + _BYTES_IN_8_BITS)
        job = tokens * max(c.hidden_size, c.n_heads * c.v_dim) * _BYTES_IN_8_BITS + values
        part = min(tokens, ATTENTION_TOKENS) * (c.head_dim + c.v_dim)
        thread = 4 * (tokens * _ROWS_OF_A_THREAD + c.kv_lora_rank * (c.qk_nope_dim + c.v_dim) + part)
        return int(_KERNEL_SPARE * (job + self.threads * thread))

    def longest_chunk(self, budget_bytes: int, most: int) -> int:
        """See chunk_in_ram."""
        return chunk_in_ram(budget_bytes, 4 * self.config.hidden_size, self.cards, most)


def resident_bytes() -> int:
    """This process's memory, its libraries included."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def own_bytes(config: ModelConfig, resident: int) -> int:
    """What this process takes beyond the allowance: `resident` bytes now, and what is still to come."""
    return max(0, resident + config.vocab_size * _ENCODER_BYTES_OF_A_TOKEN - ALLOWED_BYTES)


def without_own(budget: int, own: int) -> int:
    """What is left of a budget for the model."""
    return budget - min(own, budget // _LARGEST_SHARE)


def budget_for(needed: int, own: int) -> int:
    """A budget of which so much is left for the model."""
    return needed + min(own, needed // (_LARGEST_SHARE - 1) + 1)
