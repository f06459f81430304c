"""Our side of a measurement: the model in this process, driven as the engine drives it."""

import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2lite import __version__
from k2lite.bench.fresh_ids import fresh_ids, topics_of
from k2lite.bench.options import WARM_UP_TOKENS
from k2lite.bench.token_bytes import weight_bytes_per_token
from k2lite.config_gguf import config_from_gguf
from k2lite.engine_options import DEFAULT_CHUNK_TOKENS, EngineOptions
from k2lite.kv_cache import KvCache
from k2lite.load import LoadedModel, load_model
from offload.memory_options import MemoryOptions
from offload.probe_host import usable_cores
from quant.gguf.gguf_file import GgufFile


class EngineSide:
    """Decodes and prefills with tokens that were never seen. See child.Side."""

    _loaded: LoadedModel
    _cache: KvCache
    _topics: int

    def load(
        self,
        path: str,
        capacity: int,
        threads: int | None,
        kernels: str,
        pin: bool = False,
        ram_budget_bytes: int | None = None,
        settled: bool = True,
    ) -> dict[str, Any]:
        """Load the model; returns facts about it. `settled` waits for what comes in the background."""
        threads = threads or usable_cores()
        torch.set_num_threads(threads)
        self._loaded = self._open(
            path=Path(path),
            kernels=kernels,
            threads=threads,
            pin_threads=pin,
            memory=MemoryOptions(ram_budget_bytes=ram_budget_bytes, context_tokens=capacity),
        )
        model, self._topics = self._loaded.model, topics_of(Path(path))
        if settled:
            model.settle()
        # Refuses a context that the model has not got.
        self._cache = model.new_cache(EngineOptions(capacity).context_for(model.config.context_length))
        return {
            "model": self._loaded.info.model_name,
            "weight_bytes": self._loaded.info.weight_bytes,
            "quantization": self._loaded.info.quantization,
            "weight_bytes_per_token": bytes_per_token(Path(path)),
            "threads": threads,
            "cores": usable_cores(),
            "kernels": kernels,
            "versions": {"k2lite": __version__, "torch": torch.__version__},
        }

    def decode(self, tokens: int, depth: int, seed: int) -> dict[str, Any]:
        """Seconds for `tokens` tokens, one at a time behind `depth` others, and the tiers' work in that time."""
        ids = self._fresh_ids(depth + WARM_UP_TOKENS + tokens, seed)
        self._cache.truncate(0)
        if depth:
            self._append(ids[:depth])
        timed_from = depth + WARM_UP_TOKENS
        for position in range(depth, timed_from):
            self._step(ids[position : position + 1])
        before = self._loaded.model.counters()
        started = time.perf_counter()
        for position in range(timed_from, len(ids)):
            self._step(ids[position : position + 1])
        seconds = time.perf_counter() - started
        after = self._loaded.model.counters()
        return {"seconds": seconds, "counters": {name: count - before[name] for name, count in after.items()}}

    def prefill(self, tokens: int, seed: int) -> dict[str, Any]:
        """Seconds for a prompt of `tokens` tokens, in the engine's chunks."""
        ids = self._fresh_ids(tokens, seed)
        self._cache.truncate(0)
        started = time.perf_counter()
        self._append(ids)
        return {"seconds": time.perf_counter() - started}

    def first(self, tokens: int, seed: int) -> dict[str, Any]:
        """The first token behind a prompt, in a model that was only just loaded."""
        return self.prefill(tokens, seed)

    def facts(self) -> dict[str, Any]:
        """The most memory that the process ever had resident, mapped pages of the file included."""
        return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    def _open(self, **options: Any) -> LoadedModel:
        return load_model(**options)

    def _fresh_ids(self, count: int, seed: int) -> Tensor:
        return torch.tensor(fresh_ids(count, self._loaded.model.config.vocab_size, self._topics, seed))

    def _append(self, ids: Tensor) -> None:
        for chunk in ids.split(self._loaded.model.prefill_tokens or DEFAULT_CHUNK_TOKENS):
            self._loaded.model.forward(chunk, self._cache)

    def _step(self, token: Tensor) -> Tensor:
        return self._loaded.model.forward(token, self._cache)


def bytes_per_token(path: Path) -> int:
    """`weight_bytes_per_token` of a GGUF file."""
    with GgufFile.open(path) as file:
        return weight_bytes_per_token(file.tensors.values(), config_from_gguf(file.metadata))
