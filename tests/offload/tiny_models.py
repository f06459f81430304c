"""Small models whose experts can be put anywhere, over and over, around the same other weights."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from k2lite.config_gguf import config_from_gguf
from k2lite.config_json import config_from_json
from k2lite.direct_pass import direct_pass
from k2lite.expert_slabs import expert_slabs
from k2lite.load import FloatTensors
from k2lite.load_gguf import GgufTensors, guess_of
from k2lite.load_nf4 import read_nf4_tensors
from k2lite.model import Model
from k2lite.nf4_experts import nf4_slabs, nf4_tensors
from k2lite.weights import TensorSource, WeightReader, build_model, mapped_layers
from offload.build import layout_of, mapped_experts_with_cards, paged_experts
from offload.card_devices import PoolCard
from offload.experts import Experts
from offload.memory_options import CardSpec
from offload.slabs import SlabMap
from offload.tiered import TieredExperts
from quant.closing import Closing
from quant.gguf.gguf_file import GgufFile
from quant.kernels import Kernels, make_kernels
from quant.kernels.nf4 import with_nf4
from quant.nf4.nf4_file import Nf4Folder


@dataclass(frozen=True)
class Setting:
    """Where experts may be. `slot_bytes` None: mapped."""

    slot_bytes: int | None
    card_bytes: tuple[int, ...] = ()
    mirror: Path | None = None


class TinyModel:
    """A model of a GGUF file. Owns the kernels' threads."""

    def __init__(self, path: Path, kernels: str = "native", threads: int = 2) -> None:
        self.kernels: Kernels = make_kernels(kernels, threads)
        self.file: Closing = self._open(path)
        self.layers = [index for index in range(self.config.n_layers) if not self.config.is_dense(index)]
        self.reader = WeightReader(self.config, self.source)
        self.slabs = self._slabs()
        self.model: Model = build_model(self.config, self.source, self.kernels)
        self.mapped = self.model._experts
        self.layout = layout_of(self.slabs, self.config.experts_per_token)

    def _open(self, path: Path) -> Closing:
        """Set `config` and `source`."""
        file = self._gguf = GgufFile.open(path)
        self.config = config_from_gguf(file.metadata)
        self.source: TensorSource = GgufTensors(file)
        return file

    def _slabs(self) -> SlabMap:
        return expert_slabs(self._gguf, self.reader, self.layers)

    def close(self) -> None:
        self.kernels.close()
        self.file.close()

    def make_experts(self, setting: Setting) -> Experts:
        """Experts in other places than the mapped file alone."""
        cards = [PoolCard(CardSpec("virtual", size), size) for size in setting.card_bytes]
        used = self.config.experts_per_token
        if setting.slot_bytes is None:
            layers = mapped_layers(self.reader, self.layers)
            return mapped_experts_with_cards(self.slabs, used, self.kernels, layers, cards)
        routers = {index: layer.router for index, layer in enumerate(self.model._layers) if layer.router is not None}
        return paged_experts(
            self.slabs,
            used,
            self.kernels,
            {index: guess_of(router) for index, router in routers.items()},
            slot_budget_bytes=setting.slot_bytes,
            cards=cards,
            mirror=setting.mirror,
        )

    @contextmanager
    def placed(self, setting: Setting) -> Iterator[TieredExperts]:
        """The model with its experts as `setting` says, as long as the block lasts."""
        experts = self.make_experts(setting)
        assert isinstance(experts, TieredExperts)
        before = self.model._experts, self.model._direct
        self.model._experts = experts
        self.model._direct = direct_pass(self.model._layers, experts, self.kernels)
        try:
            yield experts
        finally:
            self.model._experts, self.model._direct = before
            experts.close()

    def prompt(self, tokens: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.config.vocab_size, (tokens,), generator=generator)

    def greedy(self, prompt: Tensor, tokens: int, chunk: int = 64) -> tuple[list[int], Tensor]:
        """The most probable continuation, and the logits behind its last token."""
        cache = self.model.new_cache(len(prompt) + tokens)
        for part in prompt.split(chunk):
            logits = self.model.forward(part, cache)
        found: list[int] = []
        for _ in range(tokens):
            found.append(int(logits[-1].argmax()))
            logits = self.model.forward(torch.tensor(found[-1:]), cache)
        return found, logits[-1]

    def random_setting(self, rng: random.Random) -> Setting:
        """Any budget from one slot of each size to all experts, with up to three cards; or mapped with cards."""
        smallest, total = self.layout.smallest_budget_bytes, self.layout.total_bytes
        sizes = [rng.randint(smallest, max(smallest, total // 2)) for _ in range(rng.randrange(4))]
        if sizes and rng.random() < 0.15:
            return Setting(None, tuple(sizes))
        if rng.random() < 0.3:  # fewer slots than one layer's top-k
            largest = max(self.layout.slot_bytes.values())
            return Setting(smallest + rng.randrange(self.config.experts_per_token) * largest, tuple(sizes))
        return Setting(rng.randint(smallest, total), tuple(sizes))


class TinyNf4Model(TinyModel):
    """The same of an NF4 folder."""

    def _open(self, path: Path) -> Closing:
        folder = self._folder = Nf4Folder(path)
        self.kernels = with_nf4(self.kernels)
        self.config = config_from_json(folder.config, name="tiny")
        wanted = nf4_tensors(folder, self.config)
        self.source = FloatTensors(read_nf4_tensors(folder, self.config, wanted, lambda done, total: None))
        return folder

    def _slabs(self) -> SlabMap:
        return nf4_slabs(self._folder, self.config)


def stop_after(seconds: float) -> threading.Event:
    """An event that is set in a while."""
    event = threading.Event()
    threading.Timer(seconds, event.set).start()
    return event
