"""What the host does for a token besides kernels, where layers are on a card: on any machine, without a card.

    python -m benchmarks.card_overhead [--hidden 7168 --expert-width 2048] [--tokens 16]

61 layers of K2's shape behind a card whose work takes no time: its recordings replay nothing, its kernels answer with
zeros. What remains is the processor's part of a token: asking who is where, handing over, multiplying what lies in RAM.
The products themselves are taken off; they are real, since with experts of full width they push everything else out of
the processor's caches, as they do in life. A driver's calls (two graphs, two copies and an event for each layer) are
not in it.

One JSON line for each share of the experts on the card: milliseconds a token, medians (least to most).
"""

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.gpu_slice import Bench, Slice  # noqa: E402
from k2lite.bench.spread import Spread  # noqa: E402
from k2lite.recording import Recording  # noqa: E402
from offload import card_devices  # noqa: E402
from offload.card_devices import PoolCard  # noqa: E402
from offload.kernel_card import KernelCard  # noqa: E402
from offload.moves import Promotion  # noqa: E402
from offload.multiply import Multiplier  # noqa: E402
from offload.pool import LINK_SHARE  # noqa: E402
from offload.pool_device import PoolDevice  # noqa: E402
from offload.probe_host import usable_cores  # noqa: E402
from offload.slabs import SlabMap  # noqa: E402
from offload.slots import ExpertKey, Slot  # noqa: E402
from offload.slots import SlotTable as SlotsOfCard  # noqa: E402
from quant.kernels.card import CardTensor, SlotTable  # noqa: E402
from quant.kernels.card_work import CardCalls  # noqa: E402
from quant.kernels.native import NativeKernels  # noqa: E402
from quant.types import BLOCK_TYPES, BlockType  # noqa: E402

_LAYERS, _EXPERTS = 61, 16  # K2 has 384 in a layer, whose bytes need not be there to be asked for


class IdleKernels:
    """A card that is done at once."""

    def serves(self, block: BlockType) -> bool:
        """See CardKernels.serves."""
        return block in BLOCK_TYPES

    def serves_experts(self, block: BlockType) -> bool:
        """See CardKernels.serves_experts."""
        return self.serves(block)

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear."""
        return torch.zeros(len(x), w.rows)

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear_heads."""
        return torch.zeros(len(x), *w.shape[:2])

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """See CardKernels.experts."""
        return torch.zeros(x.shape)

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """See CardKernels.rows."""
        return torch.zeros(len(ids), w.cols)


class IdleRecorder:
    """Recordings that replay nothing: what is in the buffers stays there. `calls` are to a driver that does nothing."""

    handle = 1

    def __init__(self, by_native: bool) -> None:
        function = ctypes.CDLL(None).sched_yield  # takes what it gets, returns 0
        address = ctypes.cast(function, ctypes.c_void_p).value or 0
        self.calls = CardCalls(address, address, address, address) if by_native else None

    def record(self, run: Callable[[], None]) -> Recording:
        """See Recorder.record."""
        return self

    def replay(self) -> None:
        """See Recording.replay."""


class IdleCard(KernelCard):
    """A card of the pool with kernels that do nothing: its memory is reserved and never used."""

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload."""

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""


def idle_card(card: PoolCard, table: SlotsOfCard, slabs: SlabMap, multiplier: Multiplier) -> PoolDevice:
    """See card_devices.pool_device."""
    return IdleCard(card.name, card.device, table.classes, table.slots, slabs.layers, IdleKernels())


def main() -> int:
    options = _options()
    kernels = NativeKernels(usable_cores())
    inside = _Inside(kernels)
    changes = {"hidden_size": options.hidden, "moe_intermediate_size": options.expert_width}
    bench = Bench(torch.device("cpu"), IdleKernels(), kernels, changes, kind="virtual")
    with mock.patch.dict(card_devices._DEVICES, {"virtual": idle_card}):
        for share in options.shares:
            print(json.dumps(_figures(bench, share, options, inside)), flush=True)
    kernels.close()
    return 0


class _Inside:
    """How long native calls have taken."""

    def __init__(self, kernels: NativeKernels) -> None:
        self.seconds, self.calls, inner = 0.0, 0, kernels.call

        def call(name: str, *arguments: Any) -> None:
            started = time.perf_counter()
            inner(name, *arguments)
            self.seconds += time.perf_counter() - started
            self.calls += 1

        kernels.call = call  # type: ignore[method-assign]


def _figures(bench: Bench, share: float, options: argparse.Namespace, inside: _Inside) -> dict[str, Any]:
    on_card = int(share * _EXPERTS)
    part = Slice(bench, IdleRecorder(options.by == "native"), _LAYERS, _EXPERTS, _LAYERS * on_card)
    for layer in range(_LAYERS):
        for expert in range(on_card):
            move = part.tiers.residency.promotion([0], [(layer, expert)])
            assert isinstance(move, Promotion)
            part.tiers.residency.copied(move)
    part.promote(LINK_SHARE if options.promotions else 0.0)
    for layer in range(_LAYERS):  # each is described once, when it is first used
        for expert in range(_EXPERTS):
            assert part.tiers.ram.weights((layer, expert)).record
    cache = part.cache(8, options.tokens + 8)
    promoted = part.tiers.residency.promotions
    whole, outside, around, calls = [], [], [], []
    generator = torch.Generator().manual_seed(1)
    for _ in range(options.tokens + 3):
        _route(part, generator)
        x = part.layers[0].step.stream
        busy_s = part.door.state().tiers[1].busy_s
        before, started = (inside.seconds, inside.calls), time.perf_counter()
        part.forward(x, cache)
        seconds = time.perf_counter() - started
        whole.append(seconds)
        outside.append(seconds - (inside.seconds - before[0]))
        around.append(seconds - (part.door.state().tiers[1].busy_s - busy_s))
        calls.append(inside.calls - before[1])
    part.close()
    return {
        "by": options.by,
        "experts_on_card": share,
        "promotions_a_token": (part.tiers.residency.promotions - promoted) / (options.tokens + 3),
        "layers": _LAYERS,
        "milliseconds": _spread(whole[3:]),
        "outside_of_native_calls": _spread(outside[3:]),
        "outside_of_products": _spread(around[3:]),
        "microseconds_a_layer": 1e6 * Spread.of(around[3:]).median / _LAYERS,
        "native_calls": max(calls),
        "load": os.getloadavg()[0],
    }


def _route(part: Slice, generator: torch.Generator) -> None:
    """What a router would have put into the buffers: all layers of a token go to the same experts."""
    step, config = part.layers[0].step, part.config
    used = config.experts_per_token
    step.packed.normal_(generator=generator)
    step.packed[0, -used:] = torch.randperm(config.n_experts, generator=generator)[:used].float()
    step.packed[0, -2 * used : -used] = 1 / used


def _spread(seconds: list[float]) -> dict[str, float]:
    found = Spread.of([1e3 * value for value in seconds])
    return {"median": found.median, "least": found.least, "most": found.most}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--expert-width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--promotions", action="store_true", help="experts move meanwhile, without their bytes")
    parser.add_argument("--by", choices=("native", "Python"), default="native", help="who goes from layer to layer")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="of the experts on the card")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
