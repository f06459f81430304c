"""A card whose memory holds experts in slots and whose own kernels multiply them.

Which device that is does not matter here: the same code runs on the processor's memory, where there is nothing to wait
for. A slot of a card is as large as one in RAM, but its matrices begin at fixed places, so that a table of slots is
written once.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from offload.card_link import CardLink
from offload.drive import BLOCK_BYTES
from offload.multiply import CardWork, SentWork
from offload.pool import AddResult
from offload.slabs import LayerSlabs
from offload.slots import ExpertKey, SizeClass, Slot
from quant.errors import StoreError
from quant.kernels.card import ALIGNMENT, CardKernels, SlotTable

# Experts that are sent to a card: so many are multiplied in one call while as many again are copied.
_GROUP = 8


class KernelCard:
    """A PoolDevice. Owns its arena; results of its kernels have bits of their own."""

    is_exact, takes_experts = False, True

    def __init__(
        self,
        name: str,
        device: torch.device,
        classes: Sequence[SizeClass],
        slots: Sequence[int],
        layers: Mapping[int, LayerSlabs],
        kernels: CardKernels,
    ) -> None:
        """Raises StoreError when the card has no room for the slots, or no kernels for some layer's types."""
        self.name = name
        self._layers, self._kernels, self._device = dict(layers), kernels, device
        self._staged = slots  # behind the slots of each size, those for experts that are sent
        slots = [n + 2 * _GROUP for n in slots]
        self._sender = ThreadPoolExecutor(1, f"k2lite-send-{name}")
        ends = np.cumsum([0, *(c.slot_bytes * n for c, n in zip(classes, slots, strict=True))]).tolist()
        self._starts, self._sizes = ends[:-1], [c.slot_bytes for c in classes]
        for layer, slabs in self._layers.items():
            _check_served(layer, slabs, kernels)
        try:
            self._arena = torch.empty(ends[-1] + ALIGNMENT, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise StoreError(
                f"{name} has no {ends[-1] / 1e9:.2f} GB for experts: give it less (--vram-budget)"
            ) from error
        self._arena = self._arena[-self._arena.data_ptr() % ALIGNMENT :][: ends[-1]]
        self._link = CardLink(device, max(self._sizes, default=0))
        self._tables = {layer: self._table(slabs, classes, slots) for layer, slabs in self._layers.items()}

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload."""
        self._link.upload([(source[where], self._bytes(target, to)) for where, to in self._parts(key)])

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""
        self._link.download([(self._bytes(source, where), target[to]) for to, where in self._parts(key)])

    def begin(self, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """See PoolDevice.begin. Products are queued and go on while the processor multiplies something else."""
        chosen = torch.unique(torch.cat([work.tokens for work in works]))
        with self._link.computing():
            given = self._link.given(x[chosen])
            own = [CardWork(w.key, w.slot, torch.searchsorted(chosen, w.tokens.contiguous()), w.scales) for w in works]
            taken = self._link.taken(self._products(given, own)[1])

        def add_result(y: Tensor) -> None:
            y.index_add_(0, chosen, taken())

        return add_result

    def _products(self, x: Tensor, works: Sequence[CardWork]) -> tuple[Tensor, Tensor]:
        """Queue works of one layer on x [T, hidden] of the device: which of its rows they use, and the rows' sums."""
        rows = torch.unique(torch.cat([work.tokens for work in works]))
        slots, scales = (self._link.given(part) for part in _by_row(rows, works))
        rows = self._link.given(rows)
        return rows, self._kernels.experts(x[rows], self._tables[works[0].key[0]], slots, scales)

    def begin_sent(self, x: Tensor, works: Sequence[SentWork]) -> AddResult:
        """See PoolDevice.begin_sent. In a thread of its own: some experts are copied while others are multiplied."""
        sum_of_sent = self._sender.submit(self._send, x, works)

        def add_result(y: Tensor) -> None:
            y += sum_of_sent.result()

        return add_result

    @torch.inference_mode()
    def _send(self, x: Tensor, works: Sequence[SentWork]) -> Tensor:
        """The sum over all works, [T, hidden] on the host."""
        with self._link.computing():
            given = self._link.given(x)
            total = torch.zeros_like(given)
        size_class = self._sizes.index(self._layers[works[0].key[0]].slot_bytes)
        free = [self._link.nothing(), self._link.nothing()]  # when each half of the staging slots is
        groups = (works[start : start + _GROUP] for start in range(0, len(works), _GROUP))
        for number, group in enumerate(groups):
            half, first = number % 2, self._staged[size_class] + number % 2 * _GROUP
            free[half]()
            placed = []
            for index, work in enumerate(group, start=first):
                slot = Slot(size_class, index)
                self.upload(work.key, work.content(), slot)
                placed.append(CardWork(work.key, slot, work.tokens, work.scales))
            with self._link.computing():
                rows, sums = self._products(given, placed)
                total.index_add_(0, rows, sums)
                free[half] = self._link.done()
        with self._link.computing():
            taken = self._link.taken(total)
        return taken()

    def close(self) -> None:
        """See PoolDevice.close."""
        self._sender.shutdown(cancel_futures=True)
        self._tables = {}
        self._arena = torch.empty(0, dtype=torch.uint8)

    def _parts(self, key: ExpertKey) -> list[tuple[slice, slice]]:
        """Where an expert's stacked parts lie in a slot in RAM, and where in one of this card."""
        parts, start = [], 0
        for part in self._layers[key[0]].parts:
            first = start + part.start(key[1]) % BLOCK_BYTES
            parts.append((slice(first, first + part.slab_bytes), slice(start, start + part.slab_bytes)))
            start += part.room_bytes
        return parts

    def _bytes(self, slot: Slot, where: slice) -> Tensor:
        start = self._start(slot)
        return self._arena[start + where.start : start + where.stop]

    def _start(self, slot: Slot) -> int:
        return self._starts[slot.size_class] + slot.index * self._sizes[slot.size_class]

    def _table(self, slabs: LayerSlabs, classes: Sequence[SizeClass], slots: Sequence[int]) -> SlotTable:
        """The slots of a layer's size as its kernels see them."""
        size_class = self._sizes.index(slabs.slot_bytes)
        gate, up, down = _places(slabs)
        first = torch.arange(slots[size_class], dtype=torch.int64) * classes[size_class].slot_bytes
        table = (first + self._starts[size_class])[:, None] + torch.tensor([gate, up, down])
        down_part = slabs.parts[-1]
        return SlotTable(
            arena=self._arena,
            table=table.to(self._device),
            gate_up=slabs.parts[0].type,
            down=down_part.type,
            ff=down_part.shape[2],
            hidden=down_part.shape[1],
        )


def _places(slabs: LayerSlabs) -> tuple[int, int, int]:
    """Where gate, up and down begin in a slot of a card."""
    rooms = [part.room_bytes for part in slabs.parts]
    if len(rooms) == 3:
        return 0, rooms[0], rooms[0] + rooms[1]
    return 0, slabs.parts[0].slab_bytes // 2, rooms[0]  # gate above up in one part


def _check_served(layer: int, slabs: LayerSlabs, kernels: CardKernels) -> None:
    """Raises StoreError."""
    types = [part.type for part in slabs.parts]
    unserved = [str(block) for block in dict.fromkeys(types) if not kernels.serves(block)]
    if unserved:
        raise StoreError(
            f"cards cannot multiply the {', '.join(unserved)} experts of layer {layer}: leave out --devices"
        )
    if types[0] != types[-2] or any(place % ALIGNMENT for place in _places(slabs)):
        raise StoreError(f"cards cannot take the experts of layer {layer} as they lie: leave out --devices")


def _by_row(rows: Tensor, works: Sequence[CardWork]) -> tuple[Tensor, Tensor]:
    """Works by row of `rows`: slots int32 and weights f32, [rows, most experts of a row]; -1 where there is none."""
    counts = torch.zeros(len(rows), dtype=torch.int64)
    places = []
    for work in works:
        row = torch.searchsorted(rows, work.tokens.contiguous())
        places.append((row, counts[row]))
        counts[row] += 1
    slots = torch.full((len(rows), int(counts.max())), -1, dtype=torch.int32)
    scales = torch.zeros(slots.shape)
    for work, place in zip(works, places, strict=True):
        slots[place] = work.slot.index
        scales[place] = work.scales
    return slots, scales
