"""llama.cpp's side of a measurement, through the C interface of llama-cpp-python: no sampling, no Python per layer."""

import ctypes
import importlib.util
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2lite.bench.fresh_ids import fresh_ids, topics_of
from k2lite.bench.options import WARM_UP_TOKENS
from quant.errors import LibraryError, UnsupportedError

_SMALL_BATCH, _LARGE_BATCH = 512, 2048
_TRIALS = 3


@dataclass(frozen=True)
class Flags:
    """How a context is made: what llama.cpp can be told to do differently, and whichever is fastest is taken."""

    flash_attention: bool
    batch_tokens: int

    def __str__(self) -> str:
        return f"flash attention {'on' if self.flash_attention else 'off'}, batch {self.batch_tokens}"


class LlamaSide:
    """Decodes and prefills with tokens that were never seen. See child.Side."""

    def __init__(self) -> None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise LibraryError("there is no llama.cpp to compare with: pip install llama-cpp-python")
        import llama_cpp

        self._c: Any = llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._contexts: dict[Flags, Any] = {}
        self._decode_flags: Flags | None = None
        self._prefill_flags: dict[int, Flags] = {}

    def load(self, path: str, capacity: int, threads: int, repack: bool) -> dict[str, Any]:
        """Load the model, mapped. `repack` lets it keep a second copy of the weights in its own order."""
        params = self._c.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = self._c.LLAMA_LOAD_MODE_MMAP
        params.use_extra_bufts = repack
        self._model = self._c.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise UnsupportedError(f"llama.cpp cannot load {path}: measure it without --against")
        self._capacity, self._threads = capacity, threads
        self._topics = topics_of(Path(path))
        self._vocab = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self._model))
        return {"versions": {"llama-cpp-python": self._c.__version__}}

    def choose(self, prefill_tokens: list[int], depth: int, tokens: int = 4) -> dict[str, Any]:
        """Try every combination of flags, and keep the fastest for decoding and for each length of prompt.

        Decoding is tried with `tokens` tokens.
        """
        trials = {
            flags: min(self._decode_s(flags, tokens, depth, seed) for seed in range(_TRIALS)) for flags in _flags(1)
        }
        self._decode_flags = min(trials, key=trials.__getitem__)
        for length in prefill_tokens:
            times = {flags: self._prefill_s(flags, length, seed=length) for flags in _flags(length)}
            self._prefill_flags[length] = min(times, key=times.__getitem__)
        used = {self._decode_flags, *self._prefill_flags.values()}
        for flags in self._contexts.keys() - used:
            self._c.llama_free(self._contexts.pop(flags))
        return {
            "decode": str(self._decode_flags),
            "prefill": {str(tokens): str(flags) for tokens, flags in self._prefill_flags.items()},
        }

    def decode(self, tokens: int, depth: int, seed: int) -> dict[str, Any]:
        """Seconds for `tokens` tokens, one at a time behind `depth` others."""
        assert self._decode_flags is not None, "choose() comes first"
        return {"seconds": self._decode_s(self._decode_flags, tokens, depth, seed)}

    def prefill(self, tokens: int, seed: int) -> dict[str, Any]:
        """Seconds for a prompt of `tokens` tokens."""
        return {"seconds": self._prefill_s(self._prefill_flags[tokens], tokens, seed)}

    def first(self, tokens: int, seed: int) -> dict[str, Any]:
        """The first token behind a prompt, in a model that was only just loaded."""
        return {"seconds": self._prefill_s(Flags(True, _SMALL_BATCH), tokens, seed)}

    def facts(self) -> dict[str, Any]:
        """The most memory that the process ever had resident, mapped pages of the file included."""
        return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    def _decode_s(self, flags: Flags, tokens: int, depth: int, seed: int) -> float:
        context = self._empty_context(flags)
        ids = self._fresh_ids(depth + WARM_UP_TOKENS + tokens, seed)
        self._append(context, ids[:depth], flags.batch_tokens)
        self._append(context, ids[depth : depth + WARM_UP_TOKENS], 1)
        started = time.perf_counter()
        self._append(context, ids[depth + WARM_UP_TOKENS :], 1)
        return time.perf_counter() - started

    def _prefill_s(self, flags: Flags, tokens: int, seed: int) -> float:
        context = self._empty_context(flags)
        ids = self._fresh_ids(tokens, seed)
        started = time.perf_counter()
        self._append(context, ids, flags.batch_tokens)
        return time.perf_counter() - started

    def _append(self, context: Any, ids: list[int], step: int) -> None:
        """Compute `ids` behind what the context holds, `step` at a time, to the last logit."""
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            tokens = (ctypes.c_int32 * len(part))(*part)  # kept: a batch has only its address
            status = self._c.llama_decode(context, self._c.llama_batch_get_one(tokens, len(part)))
            if status:
                raise UnsupportedError(f"llama.cpp fails with status {status} on {len(part)} tokens at {start}")
            self._c.llama_synchronize(context)

    def _empty_context(self, flags: Flags) -> Any:
        if flags not in self._contexts:
            self._contexts[flags] = self._new_context(flags)
        context = self._contexts[flags]
        self._c.llama_memory_clear(self._c.llama_get_memory(context), False)
        return context

    def _new_context(self, flags: Flags) -> Any:
        params = self._c.llama_context_default_params()
        params.n_ctx = self._capacity
        params.n_batch = params.n_ubatch = flags.batch_tokens
        params.n_threads = params.n_threads_batch = self._threads
        on, off = self._c.LLAMA_FLASH_ATTN_TYPE_ENABLED, self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if flags.flash_attention else off
        context = self._c.llama_init_from_model(self._model, params)
        if not context:
            raise UnsupportedError(f"llama.cpp makes no context of {self._capacity} tokens with {flags}")
        return context

    def _fresh_ids(self, count: int, seed: int) -> list[int]:
        return fresh_ids(count, self._vocab, self._topics, seed)


def _flags(tokens: int) -> list[Flags]:
    """What is worth trying for as many tokens at once."""
    batches = (_SMALL_BATCH, _LARGE_BATCH) if tokens > _SMALL_BATCH else (_SMALL_BATCH,)
    return [Flags(flash, batch) for batch in batches for flash in (False, True)]
