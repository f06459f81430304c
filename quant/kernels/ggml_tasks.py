"""How products are cut into tasks: pieces of rows or heads, each one ggml graph.

How it is cut depends on the shapes alone, never on the number of threads: a row's result may depend on the piece that
it is in, as ggml picks its inner loop by the piece's shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from quant.kernels.ggml_activations import ActivationFormat
from quant.kernels.ggml_graph import GatedShape, ProductShape, Worker
from quant.tensor import QuantizedTensor

PIECE_BYTES = 1 << 20  # of weights: some 0.1 ms for one token, twenty times what a task costs in the interpreter
BATCH = 8  # from this many tokens on ggml works in tiles of 256 rows, and a piece takes far longer than its reading
BATCH_PIECE_BYTES = 1 << 18
ROW_STEP = 64
BATCH_ROW_STEP = 256


@dataclass(frozen=True, eq=False, slots=True)
class Inputs:
    """Converted activations uint8 [..., row bytes] and what they are."""

    data: Tensor
    form: ActivationFormat


@dataclass(frozen=True, eq=False, slots=True)
class _ProductTask:
    """`w`, `x` and `y` are addresses into what `owners` keep alive."""

    shape: ProductShape
    w: int
    x: int
    y: int
    owners: tuple[object, ...]

    def __call__(self, worker: Worker) -> None:
        worker.graph(self.shape).run(worker, self.w, self.x, self.y)


@dataclass(frozen=True, eq=False, slots=True)
class _GatedTask:
    """`addresses` are gate, its x, up, its x; with `y` they point into what `owners` keep alive."""

    shape: GatedShape
    addresses: tuple[int, int, int, int]
    y: int
    owners: tuple[object, ...]

    def __call__(self, worker: Worker) -> None:
        worker.graph(self.shape).run(worker, self.addresses, self.y)


def product_tasks(x: Inputs, w: QuantizedTensor, y: Tensor) -> Iterator[_ProductTask]:
    """y [T, rows] = x [T, cols] @ w.T, w [rows, cols]. `y` is contiguous."""
    tokens, rows = y.shape
    w_address, x_address, y_address, owners = w.address, x.data.data_ptr(), y.data_ptr(), (w, x, y)
    for start, stop in row_pieces(rows, w.row_bytes, tokens):
        stride = 4 * (rows if tokens > 1 else stop - start)
        shape = ProductShape(w.type.ggml_id, x.form.ggml_id, w.cols, stop - start, tokens, stride)
        yield _ProductTask(shape, w_address + start * w.row_bytes, x_address, y_address + 4 * start, owners)


def head_tasks(x: Inputs, w: QuantizedTensor, y: Tensor) -> Iterator[_ProductTask]:
    """y [T, H, rows] from x [H, T, cols] and w [H, rows, cols]. One token's heads go many to a graph."""
    tokens, heads, rows = y.shape
    head_bytes, x_bytes = w.nbytes // heads, x.data.nbytes // heads
    w_address, x_address, y_address, owners = w.address, x.data.data_ptr(), y.data_ptr(), (w, x, y)
    step = max(1, PIECE_BYTES // head_bytes) if tokens == 1 else 1
    for start in range(0, heads, step):
        count = min(step, heads - start)
        stride = 4 * rows * (heads if tokens > 1 else 1)
        shape = ProductShape(w.type.ggml_id, x.form.ggml_id, w.cols, rows, tokens, stride, count)
        yield _ProductTask(
            shape, w_address + start * head_bytes, x_address + start * x_bytes, y_address + 4 * start * rows, owners
        )


def gated_tasks(
    gate_x: Inputs, gate: QuantizedTensor, up_x: Inputs, up: QuantizedTensor, y: Tensor
) -> Iterator[_GatedTask]:
    """y [n, ff] = silu(x @ gate.T) * (x @ up.T). Both x are the same rows, in the type of their matrix."""
    tokens, rows = y.shape
    owners = (gate_x, gate, up_x, up, y)
    gate_address, gate_x_address, gate_row = gate.address, gate_x.data.data_ptr(), gate.row_bytes
    up_address, up_x_address, up_row = up.address, up_x.data.data_ptr(), up.row_bytes
    types = (gate.type.ggml_id, gate_x.form.ggml_id, up.type.ggml_id, up_x.form.ggml_id)
    for start, stop in row_pieces(rows, gate_row + up_row, tokens):
        stride = 4 * (rows if tokens > 1 else stop - start)
        shape = GatedShape(*types, gate.cols, stop - start, tokens, stride)
        addresses = (gate_address + start * gate_row, gate_x_address, up_address + start * up_row, up_x_address)
        yield _GatedTask(shape, addresses, y.data_ptr() + 4 * start, owners)


def row_pieces(rows: int, row_bytes: int, tokens: int) -> list[tuple[int, int]]:
    """Ranges of rows of about equal length, together all rows."""
    step, piece_bytes = (ROW_STEP, PIECE_BYTES) if tokens < BATCH else (BATCH_ROW_STEP, BATCH_PIECE_BYTES)
    count = max(1, round(rows * row_bytes / piece_bytes))
    size = -(-rows // (count * step)) * step
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
