"""A model that answers from a script, with the tokenizer of a tiny checkpoint and a plain chat template."""

import json
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from torch import Tensor

from k2lite.chat_format import ChatFormat
from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import EngineInfo, LoadProgress, Sampling
from k2lite.tokenizer import Tokenizer
from offload.state import ExpertsState
from tests.tiny import write_checkpoint
from tests.tiny_tokenizer import VOCAB_SIZE, special_id, write_tokenizer

GREEDY = Sampling(temperature=0)
STOP = special_id("<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_{{ message.role }}|>{{ message.role }}<|im_middle|>{{ message.content }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)


@cache
def tiny_tokenizer() -> Tokenizer:
    """The tokenizer of the tiny checkpoints, with think markers."""
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), thinking_names=True)
        return Tokenizer.from_folder(Path(folder))


def write_chat_checkpoint(folder: Path, experts: int = 16) -> Path:
    """A tiny checkpoint of the K2 family that knows how to chat, two layers deep."""
    write_checkpoint(folder, "k2", layers=2, experts=experts)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": TEMPLATE}))
    return folder


def ids_of(text: str) -> list[int]:
    """Ids of `text`, markers included."""
    return tiny_tokenizer().encode_marked(text)


class FakeCache:
    """Remembers the ids themselves where a real cache holds what was computed from them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self.ids)

    def truncate(self, length: int) -> None:
        assert length <= len(self.ids)
        del self.ids[length:]


class ScriptedModel:
    """Continues `reply`: after the longest part of it that the context ends with, its next id is certain.

    Without a reply the logits are random, but always the same for the same context. `forwards` lists the number of
    ids of every call; `on_forward` is called at its beginning.
    """

    def __init__(self, reply: str | None = None, context_length: int = 512) -> None:
        self.config = SimpleNamespace(vocab_size=VOCAB_SIZE, context_length=context_length)
        self.reply = None if reply is None else ids_of(reply)
        self.forwards: list[int] = []
        self.on_forward: Callable[[], None] = lambda: None

    def new_cache(self, capacity: int) -> FakeCache:
        return FakeCache(capacity)

    def forward(self, ids: Tensor, cache: FakeCache, *, last_only: bool = True) -> Tensor:
        self.on_forward()
        self.forwards.append(len(ids))
        rows = []
        for token in ids.tolist():
            cache.ids.append(token)
            rows.append(self._logits(cache.ids))
        assert cache.length <= cache.capacity
        return torch.stack(rows[-1:] if last_only else rows)

    def counters(self) -> dict[str, int]:
        return {"ram_experts": sum(self.forwards)}

    prefill_tokens = None

    def listen(self, stop: threading.Event | None) -> None:
        """Nothing here takes long."""

    def experts_state(self) -> ExpertsState:
        return ExpertsState(places={}, scores={}, used={}, tiers=())

    def _logits(self, context: Sequence[int]) -> Tensor:
        if self.reply is None:
            generator = torch.Generator().manual_seed(hash(tuple(context)) % 2**32)
            return torch.randn(VOCAB_SIZE, generator=generator)
        known = next(n for n in range(len(self.reply) - 1, -1, -1) if context[len(context) - n :] == self.reply[:n])
        logits = torch.zeros(VOCAB_SIZE)
        logits[self.reply[known]] = 50.0
        return logits


class ScriptedLoad:
    """What load_model returns, around a scripted model."""

    def __init__(self, model: ScriptedModel) -> None:
        self.model, self.tokenizer = model, tiny_tokenizer()
        self.chat_format = ChatFormat(TEMPLATE, self.tokenizer)
        self.info = EngineInfo("scripted", model.config.context_length, 1000, "F32", GREEDY)
        self.closed = False

    def close(self) -> None:
        self.closed = True


def scripted_engine(model: ScriptedModel, **options: int) -> LocalEngine:
    """A LocalEngine over `model`, not loaded yet. `options` are those of EngineOptions."""

    def load(path: Path | None, options: EngineOptions, report: Callable[[LoadProgress], None]) -> ScriptedLoad:
        report(LoadProgress(500, 1000))
        report(LoadProgress(1000, 1000))
        return ScriptedLoad(model)

    return LocalEngine(None, EngineOptions(**options), load)
