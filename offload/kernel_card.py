"""A card whose memory holds experts in slots and whose own kernels multiply them.

Which device that is does not matter here: the same code runs on the processor's memory, where there is nothing to wait
for. A slot of a card is as large as one in RAM, but its matrices begin at fixed places, so that a table of slots is
written once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from offload.card_errors import card_errors
from offload.card_link import CardLink
from offload.card_sending import STAGED, CardSending
from offload.drive import BLOCK_BYTES
from offload.multiply import CardWork, ExpertBytes
from offload.pool import AddResult, Share
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
        self._slots, self._sizes = tuple(slots), [c.slot_bytes for c in classes]
        # Behind the slots, room for experts that are sent, whatever their size.
        staged_bytes = STAGED * max(self._sizes)
        *self._starts, self._staging = np.cumsum([0, *(c.slot_bytes * n for c, n in zip(classes, slots, strict=True))])
        nbytes = int(self._staging) + staged_bytes
        for layer, slabs in self._layers.items():
            _check_served(layer, slabs, kernels)
        try:
            arena = torch.empty(nbytes + ALIGNMENT, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise StoreError(f"{name} has no {nbytes / 1e9:.2f} GB left: give it less (--vram-budget)") from error
        self._arena = arena[-arena.data_ptr() % ALIGNMENT :][:nbytes]
        # Promotions are copied in another thread than what is sent: each way has staging of its own.
        self._link = CardLink(device, max(self._sizes))
        self.sending = CardSending(name, self, CardLink(device, max(self._sizes)), self._slots)
        self._places = {layer: _places(slabs) for layer, slabs in self._layers.items()}
        self._tables = {layer: self._table(slabs) for layer, slabs in self._layers.items()}
        self._slot_of = {
            layer: torch.full((slabs.experts,), -1, dtype=torch.int32, device=device)
            for layer, slabs in self._layers.items()
        }

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload."""
        self.copy(self._link, key, source, target)

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""
        with card_errors(self.name):
            self._link.download([(self._bytes(source, where), target[to]) for to, where in self._parts(key)])

    def begin(self, x: Tensor, works: Sequence[CardWork]) -> AddResult:
        """See PoolDevice.begin. Products are queued and go on while the processor multiplies something else."""
        rows: Tensor | None = None
        if len(x) == 1:
            slots = torch.tensor([[work.slot.index for work in works]], dtype=torch.int32)
            scales = torch.cat([work.scales for work in works])[None]
        else:
            rows, slots, scales = _by_row(works)
            x = x[rows]
        with card_errors(self.name), self._link.computing():
            taken = self._link.taken(self._sums(works[0].key[0], self._link.given_rows(x), slots, scales))

        def add_result(y: Tensor) -> None:
            with card_errors(self.name):
                if rows is None:
                    y.add_(taken())
                else:
                    y.index_add_(0, rows, taken())

        return add_result

    def share(self, layer: int) -> Share | None:
        """See PoolDevice.share. None where it has no slots for the layer's experts."""
        if not self._slots[self.class_of(layer)]:
            return None
        slot_of = self._slot_of[layer]

        def sum_of_those_here(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
            return self._kernels.experts(x, self._tables[layer], slot_of[ids], weights)

        return sum_of_those_here

    def moved(self, key: ExpertKey, slot: Slot | None) -> None:
        """See PoolDevice.moved."""
        layer, expert = key
        with card_errors(self.name):
            self._slot_of[layer][expert] = -1 if slot is None else slot.index

    def class_of(self, layer: int) -> int:
        """See SlotMemory.class_of."""
        return self._sizes.index(self._layers[layer].slot_bytes)

    def copy(self, link: CardLink, key: ExpertKey, source: ExpertBytes, target: Slot) -> None:
        """See SlotMemory.copy."""
        if isinstance(source, tuple):
            places = [slice(start, start + len(part)) for start, part in zip(self._places[key[0]], source, strict=True)]
            parts = list(zip(source, places, strict=True))
        else:
            parts = [(source[where], to) for where, to in self._parts(key)]
        with card_errors(self.name):
            link.upload([(part, self._bytes(target, to)) for part, to in parts])

    def multiply(self, link: CardLink, x: Tensor, works: Sequence[CardWork], total: Tensor) -> None:
        """See SlotMemory.multiply."""
        rows, slots, scales = _by_row(works)
        with card_errors(self.name):
            rows = link.given(rows)
            total.index_add_(0, rows, self._sums(works[0].key[0], x[rows], slots, scales))

    def _sums(self, layer: int, x: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Queue a product: x [T, hidden] on the card, `slots` and `scales` [T, k] on the host -> [T, hidden]."""
        return self._kernels.experts(x, self._tables[layer], self._link.given(slots), self._link.given(scales))

    def close(self) -> None:
        """See PoolDevice.close."""
        self.sending.close()
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
        """Where a slot begins; those behind the last of its size are for experts that are sent."""
        staged = slot.index - self._slots[slot.size_class]
        if staged >= 0:
            return int(self._staging) + staged * max(self._sizes)
        return int(self._starts[slot.size_class]) + slot.index * self._sizes[slot.size_class]

    def _table(self, slabs: LayerSlabs) -> SlotTable:
        """The slots of a layer's size as its kernels see them."""
        size_class, down = self._sizes.index(slabs.slot_bytes), slabs.parts[-1]
        count = self._slots[size_class] + STAGED
        starts = torch.tensor([self._start(Slot(size_class, index)) for index in range(count)])
        return SlotTable(
            arena=self._arena,
            table=(starts[:, None] + torch.tensor(_places(slabs))).to(self._device),
            gate_up=slabs.parts[0].type,
            down=down.type,
            ff=down.shape[2],
            hidden=down.shape[1],
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


def _by_row(works: Sequence[CardWork]) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of works, rising, [rows] int64, and for each of them slots int32 and weights f32 [rows, k].

    k is the most experts that a token goes to; -1 stands where there is none.
    """
    rows = torch.unique(torch.cat([work.tokens for work in works]))
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
    return rows, slots, scales
