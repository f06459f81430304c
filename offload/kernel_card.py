"""A card whose memory holds experts in slots and whose own kernels multiply them.

Which device that is does not matter here: the same code runs on the processor's memory, where there is nothing to wait
for. A slot of a card is as large as one in RAM, but its matrices begin at fixed places, so that a table of slots is
written once. NF4 is laid out anew when it comes to a slot, on the card, whose memory is fast: the library that
multiplies it takes codes and factors in one run each (quant.nf4.values.set_apart). To copy them for every product would
take more time than the product; so an expert pays once for its stay.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from offload.card_errors import card_errors
from offload.card_layout import SlotMatrix, places_in_ram, slot_matrices
from offload.card_link import CardLink
from offload.card_sending import STAGED, CardSending
from offload.multiply import CardWork, ExpertBytes
from offload.pool_device import AddResult, Share
from offload.slabs import LayerSlabs
from offload.slots import ExpertKey, SizeClass, Slot
from quant.errors import StoreError
from quant.kernels.card import ALIGNMENT, CardKernels, CardTensor, SlotTable
from quant.kernels.card_one_by_one import CardExpert, experts_one_by_one
from quant.nf4.values import NF4, put_together, set_apart


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
        grouped = {layer: _is_grouped(slabs, kernels) for layer, slabs in self._layers.items()}
        self._matrices = {layer: slot_matrices(slabs, not grouped[layer]) for layer, slabs in self._layers.items()}
        # Of layers whose experts are multiplied in one call. For the others, what is in slots that were used before:
        # one for all layers whose experts are alike.
        self._tables = {layer: self._table(layer) for layer in self._layers if grouped[layer]}
        experts: dict[tuple[SlotMatrix, ...], dict[int, CardExpert]] = {}
        self._known = {layer: experts.setdefault(found, {}) for layer, found in self._matrices.items()}
        self._slot_of = {
            layer: torch.full((slabs.experts,), -1, dtype=torch.int32, device=device)
            for layer, slabs in self._layers.items()
        }

    def upload(self, key: ExpertKey, source: np.ndarray, target: Slot) -> None:
        """See PoolDevice.upload."""
        self.copy(self._link, key, source, target)

    def download(self, key: ExpertKey, source: Slot, target: np.ndarray) -> None:
        """See PoolDevice.download."""
        places = places_in_ram(self._layers[key[0]], key[1])
        with card_errors(self.name), self._link.copying():
            matrices = self._matrices[key[0]]
            found = [part for matrix in matrices for part in _parts(matrix, self._as_in_ram(source, matrix))]
            self._link.download([(data, target[to]) for data, to in zip(found, places, strict=True)])

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
        """See PoolDevice.share. None without slots for the layer's experts, or where only the host can launch them."""
        table, slot_of = self._tables.get(layer), self._slot_of[layer]
        if table is None or not self._slots[self.class_of(layer)]:
            return None

        def sum_of_those_here(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
            return self._kernels.experts(x, table, slot_of[ids], weights)

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
        if not isinstance(source, tuple):
            gate, up, down = (source[where] for where in places_in_ram(self._layers[key[0]], key[1]))
            source = gate, up, down
        with card_errors(self.name), link.copying():
            matrices = [(matrix, self._bytes(target, matrix)) for matrix in self._matrices[key[0]]]
            places = [part for matrix, data in matrices for part in _parts(matrix, data)]
            link.upload(list(zip(source, places, strict=True)))
            for matrix, data in matrices:
                if matrix.type == NF4:
                    data.copy_(set_apart(data))

    def multiply(self, link: CardLink, x: Tensor, works: Sequence[CardWork], total: Tensor) -> None:
        """See SlotMemory.multiply."""
        rows, slots, scales = _by_row(works)
        with card_errors(self.name):
            rows = link.given(rows)
            total.index_add_(0, rows, self._sums(works[0].key[0], x[rows], slots, scales))

    def _sums(self, layer: int, x: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        """Queue a product: x [T, hidden] on the card, `slots` and `scales` [T, k] on the host -> [T, hidden]."""
        given, table = self._link.given, self._tables.get(layer)
        if table is not None:
            return self._kernels.experts(x, table, given(slots), given(scales))
        return experts_one_by_one(self._kernels, x, partial(self._expert, layer), slots, scales, given)

    def close(self) -> None:
        """See PoolDevice.close."""
        self.sending.close()
        self._tables, self._known = {}, {}
        self._arena = torch.empty(0, dtype=torch.uint8)

    def _as_in_ram(self, slot: Slot, matrix: SlotMatrix) -> Tensor:
        """The bytes of a matrix as RAM has them."""
        data = self._bytes(slot, matrix)
        return put_together(data) if matrix.type == NF4 else data

    def _bytes(self, slot: Slot, matrix: SlotMatrix) -> Tensor:
        start = self._start(slot) + matrix.place
        return self._arena[start : start + matrix.nbytes]

    def _start(self, slot: Slot) -> int:
        """Where a slot begins; those behind the last of its size are for experts that are sent."""
        staged = slot.index - self._slots[slot.size_class]
        if staged >= 0:
            return int(self._staging) + staged * max(self._sizes)
        return int(self._starts[slot.size_class]) + slot.index * self._sizes[slot.size_class]

    def _table(self, layer: int) -> SlotTable:
        """The slots of a layer's size as its kernels see them."""
        size_class, matrices = self.class_of(layer), self._matrices[layer]
        count, down = self._slots[size_class] + STAGED, matrices[-1]
        starts = torch.tensor([self._start(Slot(size_class, index)) for index in range(count)])
        return SlotTable(
            arena=self._arena,
            table=(starts[:, None] + torch.tensor([matrix.place for matrix in matrices])).to(self._device),
            gate_up=matrices[0].type,
            down=down.type,
            ff=down.shape[1],
            hidden=down.shape[0],
        )

    def _expert(self, layer: int, index: int) -> CardExpert:
        """What is in a slot. Whoever that is, and of whichever layer alike, the matrices are in the same places."""
        known = self._known[layer]
        if index not in known:
            slot, matrices = Slot(self.class_of(layer), index), self._matrices[layer]
            known[index] = CardExpert(*(CardTensor(m.type, m.shape, self._bytes(slot, m)) for m in matrices))
        return known[index]


def _parts(matrix: SlotMatrix, data: Tensor) -> list[Tensor]:
    """Gate, up or down, or gate and up, out of a matrix's bytes."""
    return list(data.view(matrix.parts, -1))


def _is_grouped(slabs: LayerSlabs, kernels: CardKernels) -> bool:
    return all(kernels.serves_experts(part.type) for part in slabs.parts)


def _check_served(layer: int, slabs: LayerSlabs, kernels: CardKernels) -> None:
    """Raises StoreError."""
    types = [part.type for part in slabs.parts]
    unserved = [str(block) for block in dict.fromkeys(types) if not kernels.serves(block)]
    if unserved:
        raise StoreError(
            f"cards cannot multiply the {', '.join(unserved)} experts of layer {layer}: leave out --devices"
        )
    matrices = slot_matrices(slabs, not _is_grouped(slabs, kernels))
    if types[0] != types[-2] or any(matrix.place % ALIGNMENT for matrix in matrices):
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
