"""Kernels that also add up the squares of what weights are multiplied with, column by column.

They compute what other kernels compute, and know weights by where their bytes lie.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.errors import ImatrixError
from quant.imatrix.imatrix_file import Statistics
from quant.kernels import ExpertCall, Kernels
from quant.kernels.checks import check_experts
from quant.tensor import QuantizedTensor
from quant.types import BlockType


@dataclass(frozen=True)
class Weight:
    """A weight of the model: `slabs` matrices of `slab_bytes` bytes from address `start`, with rows of `cols`."""

    name: str
    start: int
    slabs: int
    slab_bytes: int
    cols: int

    def slab_at(self, address: int) -> int:
        """The number of the slab that holds this address; `slabs` or more for an address behind the weight."""
        return (address - self.start) // self.slab_bytes


@dataclass(eq=False)
class Totals:
    """Of one weight: `sums` float32 [slabs, cols], and `counts` int64, one per expert or one for all heads."""

    sums: Tensor
    counts: Tensor


@dataclass
class CollectingKernels:
    """Implements Kernels with `inner`. Each weight may be used once a chunk; `end_chunk` begins the next one.

    Weights are announced with `watch` before they are used; those that `wanted` denies are not counted. `twin` names
    the weight whose inputs are the same (an expert's up has gate's): the two share their sums, which halves memory.
    `check` is called before every product, and what it raises leaves each weight either with or without this chunk:
    `in_chunk` names those that have it already, and a chunk that is done again leaves them as they are.

    A chunk's squares are added in float64 and the totals kept in float32, rounded once a chunk: a run that goes on
    from stored totals ends with the same bits as one that was never stopped.
    """

    inner: Kernels
    wanted: Callable[[str], bool]
    twin: Callable[[str], str] = str
    check: Callable[[], None] = lambda: None
    in_chunk: set[str] = field(default_factory=set)
    _weights: list[Weight] = field(default_factory=list)  # by address
    _totals: dict[str, Totals] = field(default_factory=dict)

    def watch(self, name: str, w: QuantizedTensor) -> None:
        """Announce a weight; norms and biases are none. Its bytes must stay where they are."""
        slabs = w.shape[0] if len(w.shape) == 3 else 1
        if len(w.shape) > 1 and self.wanted(name):
            insort(self._weights, Weight(name, w.address, slabs, w.nbytes // slabs, w.cols), key=_start)

    @property
    def nbytes(self) -> int:
        """Bytes that the totals take when every weight has been used."""
        kept = {self.twin(weight.name): weight for weight in self._weights}
        return sum(4 * weight.slabs * weight.cols for weight in kept.values())

    def end_chunk(self) -> None:
        """Count the chunk as complete."""
        self.in_chunk.clear()

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(groups, cols) of what has been counted so far, as a file has them, by weight in alphabetical order."""
        kept = {weight.name: self._totals.get(self.twin(weight.name)) for weight in self._weights}
        return {name: _grouped(totals).shape for name, totals in sorted(kept.items()) if totals is not None}

    def statistics(self, name: str) -> Statistics:
        """What has been counted so far for a weight; the numbers are shared, not copied."""
        totals = self._totals[self.twin(name)]
        return Statistics(_grouped(totals), totals.counts.float().numpy())

    def restore(self, name: str, statistics: Statistics) -> None:
        """Go on from stored totals. Raises ImatrixError for a weight that this model does not have in this shape."""
        if self.twin(name) != name:
            return  # its twin brings the same numbers
        weight = next((weight for weight in self._weights if weight.name == name), None)
        groups = statistics.counts.size
        if weight is None or statistics.sums.size != weight.slabs * weight.cols or groups not in (1, weight.slabs):
            raise ImatrixError(f"there are statistics of {name}, which this model does not have in that shape")
        sums = torch.from_numpy(statistics.sums.reshape(weight.slabs, weight.cols).copy())
        self._totals[name] = Totals(sums, torch.from_numpy(statistics.counts.astype(np.int64)))

    def serves(self, block: BlockType) -> bool:
        return self.inner.serves(block)

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        self.check()
        y = self.inner.linear(x, w)
        self._add_dense(x[:, None], w)
        return y

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        self.check()
        y = self.inner.linear_heads(x, w)
        self._add_dense(x, w)
        return y

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        check_experts(self, x, calls)
        total = torch.zeros(x.shape)
        layer: dict[str, Totals] = {}
        for call in calls:
            if not call.tokens.numel():
                continue
            self.check()
            rows = x[call.tokens]
            hidden = silu(self.inner.linear(rows, call.weights.gate)) * self.inner.linear(rows, call.weights.up)
            result = self.inner.linear(hidden, call.weights.down)
            total.index_add_(0, call.tokens, result * call.scales[:, None])
            self._stage(layer, call, rows, hidden)
        for key, added in layer.items():  # all at once, so that no layer has half a chunk
            self._commit(key, added)
        return total

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        self.check()
        return self.inner.rows(w, ids)

    def close(self) -> None:
        self.inner.close()

    def _add_dense(self, x: Tensor, w: QuantizedTensor) -> None:
        """Count x [T, slabs, cols] for a weight that all tokens use."""
        weight = self._find(w)
        if weight is not None and self.twin(weight.name) not in self.in_chunk:
            added = Totals(_squares(x), torch.tensor([x.shape[0]]))
            self._commit(self.twin(weight.name), added)

    def _stage(self, layer: dict[str, Totals], call: ExpertCall, rows: Tensor, hidden: Tensor) -> None:
        """Count the inputs of one expert's matrices, in totals of this chunk alone."""
        inputs: dict[str, tuple[Weight, int, Tensor]] = {}
        for w, x in ((call.weights.gate, rows), (call.weights.up, rows), (call.weights.down, hidden)):
            weight = self._find(w)
            if weight is not None and self.twin(weight.name) not in self.in_chunk:
                inputs[self.twin(weight.name)] = weight, weight.slab_at(w.address), x
        for key, (weight, expert, x) in inputs.items():
            if key not in layer:
                counts = torch.zeros(weight.slabs, dtype=torch.int64)
                layer[key] = Totals(torch.zeros(weight.slabs, weight.cols), counts)
            layer[key].sums[expert] += _squares(x)
            layer[key].counts[expert] += x.shape[0]

    def _commit(self, key: str, added: Totals) -> None:
        if not torch.isfinite(added.sums).all():
            raise ImatrixError(
                f"the inputs of {key} hold NaN or inf: the model may be damaged, fetch or quantize it again"
            )
        self.in_chunk.add(key)
        kept = self._totals.setdefault(key, added)
        if kept is not added:
            kept.sums += added.sums
            kept.counts += added.counts

    def _find(self, w: QuantizedTensor) -> Weight | None:
        """The announced weight that `w` is, or is a part of."""
        position = bisect_right(self._weights, w.address, key=_start) - 1
        weight = self._weights[position] if position >= 0 else None
        return weight if weight is not None and weight.slab_at(w.address) < weight.slabs else None


def _start(weight: Weight) -> int:
    return weight.start


def _squares(x: Tensor) -> Tensor:
    """x [n, ...] -> float32 [...]: squares summed over n."""
    return x.double().square().sum(0).float()


def _grouped(totals: Totals) -> np.ndarray:
    """The sums as a file has them: [groups, cols], all heads being one group."""
    return totals.sums.reshape(len(totals.counts), -1).numpy()
