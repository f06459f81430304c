"""Some layers of K2's width as the engine runs them, on a card, of random bytes: experts are there and in RAM."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_timing import random_bytes
from k2lite.card_attention import CardAttention, CardAttentionWeights
from k2lite.card_layer import CardFeedForward, CardLayer, CardRouter
from k2lite.card_pass import card_passes
from k2lite.card_step import CardStep
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.layer import Rotations
from k2lite.recording import Recorder
from k2lite.rope import Rope
from k2lite.synth.families import shape_named
from offload.build import mapped_experts_with_cards
from offload.card_devices import PoolCard
from offload.dispatch import MeasuredSpeeds
from offload.mapped_experts import StackedExperts
from offload.memory_options import CardSpec
from offload.moves import Promotion
from offload.slabs import LayerSlabs, SlabMap, StackedTensor
from offload.slots import ExpertKey
from offload.tiered import TieredExperts
from offload.tiers import Tiers
from quant.kernels import Kernels
from quant.kernels.card import CardKernels, CardTensor
from quant.kernels.card_floats import CardFloats
from quant.tensor import QuantizedTensor
from quant.types import block_type

TYPES = ("Q4_K", "Q4_K", "Q6_K")  # gate, up and down, as Q4_K_M often has them


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and with what. `changes` make K2 smaller, to try the benchmark itself; `kind` of card."""

    device: torch.device
    kernels: CardKernels
    host: Kernels
    changes: Mapping[str, int] = field(default_factory=dict)
    kind: Literal["virtual", "cuda"] = "cuda"

    def wait(self) -> None:
        """Until the card has done all that was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Slice:
    """`layers` layers with `experts` experts each, whose bytes all layers share in RAM, and `slots` slots for them."""

    def __init__(self, bench: Bench, recorder: Recorder, layers: int, experts: int, slots: int) -> None:
        self.bench = bench
        # Shared experts' bytes in RAM are read from there by each layer: together they are larger than any cache.
        self.config = _config(bench, layers, experts)
        self.home = Home("cuda:0", bench.device, is_card=True, cache_type=torch.bfloat16)
        step = CardStep(bench.device, self.config, recorder)
        self.layers = [self._layer(step) for _ in range(layers)]
        self.door = self._door(slots)
        self.tiers: Tiers = self.door._tiers
        self.expert_bytes = self.tiers.layers[0].expert_bytes
        self._passes = card_passes(self.layers, self.door, bench.host)
        self._rope = Rope(self.config)

    def forward(self, x: Tensor, cache: KvCache, experts: "TieredExperts | Only | None" = None) -> Tensor:
        """x [T, hidden] behind all layers, for T further positions of `cache`."""
        door = experts or self.door
        self.door.prepare(len(x))
        turned = tuple(table.to(self.bench.device) for table in self._rope.rotations(cache.length, len(x)))
        with torch.inference_mode(), self.home.active():
            x = self._behind_layers(x, cache, (turned[0], turned[1]), door)
        cache.advance(len(x))
        return x

    def _behind_layers(self, x: Tensor, cache: KvCache, turned: Rotations, door: "TieredExperts | Only") -> Tensor:
        """As Model does it."""
        if len(x) == 1 and isinstance(door, TieredExperts):
            for card_pass in self._passes.values():
                found = card_pass.forward(x, cache, turned, door) if card_pass.is_ready(door) else None
                if found is not None:
                    return found
        for index, layer in enumerate(self.layers):
            x = layer.forward(index, x, cache, turned, door)  # type: ignore[arg-type]
        return x

    def cache(self, filled: int, room: int) -> KvCache:
        """With `filled` positions that hold something, and room for more."""
        cache = KvCache(self.config, filled + room, [self.home] * self.config.n_layers)
        for layer in range(self.config.n_layers):
            cache.write(layer, torch.randn(filled, self.config.latent_dim).to(self.bench.device))
        cache.advance(filled)
        return cache

    def token_seconds(self, cache: KvCache, tokens: int, experts: "Only | None" = None) -> list[float]:
        """Of each of several tokens, one after the other, as somebody at the clock sees it. Some are not counted."""
        seconds = []
        for number in range(tokens + 3):
            x = torch.randn(1, self.config.hidden_size, generator=torch.Generator().manual_seed(number))
            x = x.to(self.bench.device)
            self.bench.wait()
            started = perf_counter()
            self.forward(x, cache, experts)
            self.bench.wait()
            seconds.append(perf_counter() - started)
        return seconds[3:]

    def put_on_card(self, keys: Iterable[ExpertKey]) -> None:
        """Bring experts to the card, each to a slot."""
        residency, device = self.tiers.residency, self.tiers.pool.devices[0]
        for key in keys:
            move = residency.promotion([0], [key])
            assert isinstance(move, Promotion), f"{key} has no slot"
            device.upload(key, self.tiers.ram.slot_bytes(key)(), move.target)
            residency.copied(move)

    def promote(self, link_share: float) -> None:
        """How much of the link's time promotions get: 0 for none."""
        self.tiers.pool._link_share = link_share

    def send_everything(self) -> None:
        """Have a prompt's experts sent to the card, however fast the processor is."""
        slow = replace(self.tiers.speeds.speeds, cpu_bytes_per_s=1.0, cpu_flops=1.0)
        self.tiers.speeds = MeasuredSpeeds(slow)

    def close(self) -> None:
        """Free the card."""
        self.door.close()

    def _layer(self, step: CardStep) -> CardLayer:
        c, floats, device = self.config, CardFloats(self.bench.kernels), self.bench.device
        assert c.q_lora_rank is not None
        attention = CardAttentionWeights(
            norm=torch.ones(c.hidden_size, device=device),
            q_first=self._matrix("Q4_K", c.q_lora_rank, c.hidden_size),
            q_a_norm=torch.ones(c.q_lora_rank, device=device),
            q_b=self._matrix("Q4_K", c.n_heads * c.head_dim, c.q_lora_rank),
            kv_a=self._matrix("Q4_K", c.latent_dim, c.hidden_size),
            kv_a_norm=torch.ones(c.kv_lora_rank, device=device),
            k_b=self._matrix("Q5_0", c.n_heads, c.kv_lora_rank, c.qk_nope_dim),
            v_b=self._matrix("Q4_K", c.n_heads, c.v_dim, c.kv_lora_rank),
            output=self._matrix("Q4_K", c.hidden_size, c.n_heads * c.v_dim),
        )
        norm = torch.ones(c.hidden_size, device=device)
        router = CardRouter(
            norm, torch.randn(c.n_experts, c.hidden_size, device=device), torch.zeros(c.n_experts, device=device), c
        )
        wide, deep = (c.expert_width, c.hidden_size), (c.hidden_size, c.expert_width)
        shared = CardFeedForward(
            self._matrix("Q4_K", *wide), self._matrix("Q4_K", *wide), self._matrix("Q6_K", *deep), floats
        )
        attend = CardAttention(attention, c, floats)
        return CardLayer(self.home, step, attend, c.rms_eps, router=router, shared=shared)

    def _matrix(self, name: str, *shape: int) -> CardTensor:
        block = block_type(name)
        return CardTensor(block, shape, random_bytes(block, block.nbytes(shape), self.bench.device))

    def _door(self, slots: int) -> TieredExperts:
        c = self.config
        shapes = [(c.n_experts, c.expert_width, c.hidden_size)] * 2 + [(c.n_experts, c.hidden_size, c.expert_width)]
        tensors, parts = [], []
        for name, shape in zip(TYPES, shapes, strict=True):
            block = block_type(name)
            tensors.append(QuantizedTensor(block, shape, self._in_ram(name, block.nbytes(shape))))
            parts.append(StackedTensor(Path("none"), 0, block, shape))
        slabs = LayerSlabs(tuple(parts))
        numbers: Sequence[int] = range(c.n_layers)
        nbytes = slots * slabs.slot_bytes
        card = PoolCard(CardSpec(self.bench.kind, nbytes, 0), nbytes, range(c.n_layers))
        mapped = dict.fromkeys(numbers, StackedExperts(*tensors))
        return mapped_experts_with_cards(
            SlabMap(dict.fromkeys(numbers, slabs)), c.experts_per_token, self.bench.host, mapped, [card]
        )

    def _in_ram(self, name: str, nbytes: int) -> np.ndarray:
        """Random blocks, made in pieces where they are made fast."""
        data, piece = np.empty(nbytes, np.uint8), block_type(name).block_bytes << 18
        for start in range(0, nbytes, piece):
            part = random_bytes(block_type(name), min(piece, nbytes - start), self.bench.device)
            data[start : start + len(part)] = part.cpu().numpy()
        return data


class Only:
    """The experts of another door that lie in some places only: what one processor does of a token."""

    def __init__(self, door: TieredExperts, is_wanted: Callable[[int], bool]) -> None:
        self._door, self._is_wanted = door, is_wanted

    def announce(self, layer: int, stream: Tensor) -> None:
        """Nothing is read ahead."""

    def share_of(self, layer: int) -> None:
        """See Experts.share_of: all of them are asked for."""

    def forward(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: None = None, beside: bool = False
    ) -> Tensor:
        """See Experts.forward."""
        place = self._door._tiers.residency.place
        kept = [number for number, expert in enumerate(ids[0].tolist()) if self._is_wanted(place((layer, expert)))]
        if not kept:
            return torch.zeros(x.shape)
        return self._door.forward(layer, x, ids[:, kept], weights[:, kept])


def _config(bench: Bench, layers: int, experts: int) -> ModelConfig:
    changes = {"num_hidden_layers": layers, "first_k_dense_replace": 0, "n_routed_experts": experts}
    return config_from_json(shape_named("k2").config | changes | dict(bench.changes))


def middle(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the median, the least and the most."""
    return {"milliseconds": median(seconds) * 1e3, "least": min(seconds) * 1e3, "most": max(seconds) * 1e3}
