"""Many tokens through a card's experts: some experts at a time as plain bfloat16 matrices, then tensor cores."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from quant.kernels.card import SlotTable
from quant.kernels.card_scratch import experts_together, places_together
from quant.kernels.triton.expand import expanded_matrices
from quant.kernels.triton.matrix import add_chunk_kernel, down_matrix_kernel, gate_up_matrix_kernel

_SUM_TILE = 1024


@dataclass(frozen=True)
class Tile:
    """A program's part of a product: tokens, rows of the matrix, columns at a time; warps and pipeline stages."""

    tokens: int
    units: int
    step: int
    warps: int
    stages: int


@dataclass(frozen=True)
class _Chunk:
    """Some experts with tokens: their slots, and the sorted places of their tokens, which are `starts` to `last`.

    An expert with more tokens than go together is in several chunks.
    """

    slots: tuple[int, ...]
    starts: tuple[int, ...]
    last: int
    most: int  # tokens of one expert


def many_experts(x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
    """See CardKernels.experts. Waits for the device once: the number of each slot's tokens decides what is launched.

    Beside its arguments it takes what `card_scratch` says for matrices and products, 6 * hidden bytes for each token
    and about 64 for each pair of a token and an expert.
    """
    tokens, used = slots.shape
    flat = slots.flatten()
    order = flat.argsort(stable=True)
    places = torch.empty_like(flat)
    places[order] = torch.arange(len(flat), dtype=torch.int32, device=x.device)
    counts = torch.bincount(flat.clamp_min(-1) + 1, minlength=1).tolist()
    token = torch.div(order, used, rounding_mode="floor").int()
    x = x.bfloat16().contiguous()
    y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    most = experts_together(experts.ff, experts.hidden), places_together(experts.hidden)
    chunks = list(_chunks(counts, *most))
    for chunk, numbers in zip(chunks, _numbers(chunks, x.device), strict=True):
        parts = _products(x, experts, chunk, token, numbers)
        add_chunk_kernel[(triton.cdiv(experts.hidden, _SUM_TILE), tokens)](
            parts, places, weights, y, experts.hidden, chunk.starts[0], chunk.last,
            USED=used, TILE=_SUM_TILE, num_warps=4,
        )  # fmt: skip
        del parts  # before the next chunk's are made
    return y


def _chunks(counts: list[int], size: int, places: int) -> Iterator[_Chunk]:
    """Slots with tokens, at most `size` at a time, and at most so many `places` of tokens.

    Entry 0 counts the pairs whose expert is not here: they sort first.
    """
    first = counts[0]
    part: list[tuple[int, int, int]] = []  # slot, first place, places
    for slot, count in enumerate(counts[1:]):
        for start in range(first, first + count, places):
            taken = min(places, first + count - start)
            if len(part) == size or (part and start + taken - part[0][1] > places):
                yield _chunk(part)
                part = []
            part.append((slot, start, taken))
        first += count
    if part:
        yield _chunk(part)


def _chunk(part: list[tuple[int, int, int]]) -> _Chunk:
    slots, starts, counts = zip(*part, strict=True)
    return _Chunk(slots, starts, starts[-1] + counts[-1], max(counts))


def _numbers(chunks: list[_Chunk], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each chunk: its slots, and where its experts' tokens start, counted from the first, and end. One copy."""
    lists: list[list[int]] = []
    for chunk in chunks:
        begin = chunk.starts[0]
        lists += [list(chunk.slots), [*(start - begin for start in chunk.starts), chunk.last - begin]]
    flat = torch.tensor([number for numbers in lists for number in numbers], dtype=torch.int32, device=device)
    parts = flat.split([len(numbers) for numbers in lists])
    return zip(parts[::2], parts[1::2], strict=True)


def _products(x: Tensor, experts: SlotTable, chunk: _Chunk, token: Tensor, numbers: tuple[Tensor, Tensor]) -> Tensor:
    """[places of the chunk, hidden] float32: what its experts make of their tokens."""
    ff, hidden, count, device = experts.ff, experts.hidden, len(chunk.slots), x.device
    slots, starts = numbers
    token = token[chunk.starts[0] : chunk.last]
    table = experts.table.T[:, slots.long()].contiguous()  # [3, count]
    gate = expanded_matrices(experts.arena, table[0], ff, hidden, experts.gate_up)
    up = expanded_matrices(experts.arena, table[1], ff, hidden, experts.gate_up)
    h = torch.empty(len(token), ff, dtype=torch.bfloat16, device=device)
    tile = gate_up_tile(chunk.most)
    gate_up_matrix_kernel[(triton.cdiv(chunk.most, tile.tokens), triton.cdiv(ff, tile.units), count)](
        x, token, starts, gate, up, h, COLS=hidden, FF=ff, **tile_arguments(tile)
    )
    del gate, up
    down = expanded_matrices(experts.arena, table[2], hidden, ff, experts.down)
    parts = torch.empty(len(token), hidden, dtype=torch.float32, device=device)
    tile = down_tile(chunk.most)
    down_matrix_kernel[(triton.cdiv(chunk.most, tile.tokens), triton.cdiv(hidden, tile.units), count)](
        h, starts, down, parts, COLS=ff, HIDDEN=hidden, **tile_arguments(tile)
    )
    return parts


def gate_up_tile(most: int) -> Tile:
    """Half of the rows of a tile are gate's and half are up's."""
    if most <= 16:
        return Tile(16, 64, 64, 4, 3)
    return Tile(64, 64, 64, 4, 3) if most <= 64 else Tile(128, 64, 64, 8, 3)


def down_tile(most: int) -> Tile:
    if most <= 16:
        return Tile(16, 128, 64, 4, 3)
    return Tile(64, 128, 64, 4, 3) if most <= 64 else Tile(128, 128, 64, 8, 3)


def tile_arguments(tile: Tile) -> dict[str, int]:
    return {
        "TILE": tile.tokens,
        "UNITS": tile.units,
        "STEP": tile.step,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
