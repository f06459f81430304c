"""The tensors of a synthetic file as pieces of known size, and the bytes of each piece when it is its turn."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from k2lite.synth.pool import PoolKey, Pools
from k2lite.synth.values import Drawn, drawn_bytes
from quant.convert.output_layout import OutputTensor


@dataclass(frozen=True)
class Cut:
    """`weights` weights out of a pool. Planes of one `label` belong together, as words and their scales."""

    key: PoolKey
    label: str
    weights: int
    plane: int = 0


@dataclass(frozen=True)
class Fixed:
    """Bytes that are known."""

    data: bytes


Piece = Cut | Drawn | Fixed
Pieces = Mapping[str, tuple[Piece, ...]]


def pool_needs(pieces: Pieces) -> dict[PoolKey, int]:
    """Weights that each pool has to deliver, in the order in which the pools are needed first."""
    needs: dict[PoolKey, int] = {}
    for tensor in pieces.values():
        for piece in tensor:
            if isinstance(piece, Cut):
                needs[piece.key] = needs.get(piece.key, 0) + piece.weights
    return needs


def content_of(pieces: Pieces, pools: Pools, seed: int) -> Callable[[OutputTensor], Iterable[np.ndarray]]:
    """What `quant.files.fresh_output.write_fresh` asks for: the bytes of a tensor of the layout."""

    def content(tensor: OutputTensor) -> Iterator[np.ndarray]:
        for piece in pieces[tensor.name]:
            if isinstance(piece, Cut):
                yield from pools.read(piece.key, piece.plane, piece.label, piece.weights)
            elif isinstance(piece, Drawn):
                yield drawn_bytes(piece, seed)
            else:
                yield np.frombuffer(piece.data, dtype=np.uint8)

    return content
