"""A card whose memory holds experts in slots and whose own kernels multiply them.

Which device that is does not matter here: the same code runs on the processor's memory, where there is nothing to wait
for. A slot of a card is as large as one in RAM, but its matrices begin at fixed places, so that a table of slots is
written once.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from offload.card_link import CardLink
from offload.drive import BLOCK_BYTES
from offload.multiply import CardWork
from offload.pool import AddResult
from offload.slabs import LayerSlabs
from offload.slots import ExpertKey, SizeClass, Slot
from quant.errors import StoreError
from quant.kernels.card import ALIGNMENT, CardKernels, SlotTable


class KernelCard:
    """A PoolDevice. Owns its arena; results of its kernels have bits of their own."""

    is_exact = False

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
        rows = torch.unique(torch.cat([work.tokens for work in works]))
        slots, scales = _by_row(rows, works)
        layer = works[0].key[0]
        with self._link.computing():
            given, slots, scales = (self._link.given(part) for part in (x[rows], slots, scales))
            taken = self._link.taken(self._kernels.experts(given, self._tables[layer], slots, scales))

        def add_result(y: Tensor) -> None:
            y.index_add_(0, rows, taken())

        return add_result

    def close(self) -> None:
        """See PoolDevice.close."""
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
    found: list[list[tuple[int, float]]] = [[] for _ in range(len(rows))]
    for work in works:
        for place, scale in zip(
            torch.searchsorted(rows, work.tokens.contiguous()).tolist(), work.scales.tolist(), strict=True
        ):
            found[place].append((work.slot.index, scale))
    width = max(map(len, found))
    padded = list(chain.from_iterable(row + [(-1, 0.0)] * (width - len(row)) for row in found))
    slots = torch.tensor([slot for slot, _ in padded], dtype=torch.int32)
    return slots.view(-1, width), torch.tensor([scale for _, scale in padded]).view(-1, width)
