"""Small ggml graphs that are built once per shape and run again and again on other addresses.

A graph is computed by the calling thread alone (n_threads = 1): ggml then starts no thread and no OpenMP team.
"""

import ctypes
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quant.ggml_library import GgmlLibrary, GraphPlan, InitParams

F32 = 0  # ggml's number of float32
ALIGNMENT = 64
MAX_GRAPHS = 512  # per worker, some 5 kB each; prefill brings a new shape for every number of tokens


class Buffer:
    """Memory of a worker that grows when more is asked for. What was in it is lost then."""

    def __init__(self) -> None:
        self._data = np.empty(0, dtype=np.uint8)
        self._address = 0

    def address(self, nbytes: int) -> int:
        """Address of at least `nbytes` bytes, aligned to 64."""
        if nbytes + ALIGNMENT > self._data.size:
            self._data = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
            self._address = _aligned(self._data)
        return self._address


class Shape(Protocol):
    """What a graph computes, all but the addresses. Hashable."""

    def build(self, library: GgmlLibrary) -> Any:
        """The graph."""


class Worker:
    """What one thread needs to run graphs. Used by that thread alone."""

    def __init__(self, library: GgmlLibrary) -> None:
        self._library = library
        self._graphs: OrderedDict[Shape, Any] = OrderedDict()
        self.work = Buffer()
        self.scratch = Buffer()

    def graph(self, shape: Shape) -> Any:
        """The graph of this shape; the least recently used one makes room."""
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = shape.build(self._library)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(shape)
        return graph


@dataclass(frozen=True, slots=True)
class ProductShape:
    """y = x @ w.T: w [heads, rows, cols], x [heads, tokens, cols] converted to type `x_id`, y float32.

    y of a token lies `y_stride` bytes after the token before it, so that a piece of a wide result is written in place.
    With more than one head there is one token, and heads follow each other without gaps.
    """

    w_id: int
    x_id: int
    cols: int
    rows: int
    tokens: int
    y_stride: int
    heads: int = 1

    def build(self, library: GgmlLibrary) -> "Product":
        return Product(library, self)


@dataclass(frozen=True, slots=True)
class GatedShape:
    """y = silu(x @ gate.T) * (x @ up.T): gate and up [rows, cols], x [tokens, cols] in the type of each."""

    gate_id: int
    gate_x_id: int
    up_id: int
    up_x_id: int
    cols: int
    rows: int
    tokens: int
    y_stride: int

    def build(self, library: GgmlLibrary) -> "GatedProduct":
        return GatedProduct(library, self)


class Product:
    """The graph of a ProductShape."""

    def __init__(self, library: GgmlLibrary, shape: ProductShape) -> None:
        graph = _Graph(library, tensors=3)
        w = graph.leaf(shape.w_id, shape.cols, shape.rows, shape.heads)
        x = graph.leaf(shape.x_id, shape.cols, shape.tokens, shape.heads)
        y = graph.node("ggml_mul_mat", w, x)
        _set_stride(y, shape.y_stride)
        graph.finish(y)
        self._graph, self._w, self._x, self._y = graph, w.contents, x.contents, y.contents

    def run(self, worker: Worker, w: int, x: int, y: int) -> None:
        """Compute on these addresses."""
        self._w.data, self._x.data, self._y.data = w, x, y
        self._graph.compute(worker.work)


class GatedProduct:
    """The graph of a GatedShape. The two products pass through the worker's scratch memory."""

    def __init__(self, library: GgmlLibrary, shape: GatedShape) -> None:
        graph = _Graph(library, tensors=7)
        leaves = [
            graph.leaf(type_id, shape.cols, count)
            for type_id, count in (
                (shape.gate_id, shape.rows),
                (shape.gate_x_id, shape.tokens),
                (shape.up_id, shape.rows),
                (shape.up_x_id, shape.tokens),
            )
        ]
        gate = graph.node("ggml_mul_mat", leaves[0], leaves[1])
        up = graph.node("ggml_mul_mat", leaves[2], leaves[3])
        y = graph.node("ggml_swiglu_split", gate, up)
        _set_stride(y, shape.y_stride)
        graph.finish(y)
        self._graph = graph
        self._leaves = [leaf.contents for leaf in leaves]
        self._gate, self._up, self._y = gate.contents, up.contents, y.contents
        self._part_bytes = shape.rows * shape.tokens * 4

    def run(self, worker: Worker, addresses: tuple[int, int, int, int], y: int) -> None:
        """Compute on these addresses: gate, its x, up, its x."""
        for leaf, address in zip(self._leaves, addresses, strict=True):
            leaf.data = address
        self._gate.data = worker.scratch.address(2 * self._part_bytes)
        self._up.data = self._gate.data + self._part_bytes
        self._y.data = y
        self._graph.compute(worker.work)


class _Graph:
    """Tensor headers and a compute plan in memory of our own; no data."""

    def __init__(self, library: GgmlLibrary, tensors: int) -> None:
        call = library.call
        size = tensors * call("ggml_tensor_overhead")() + call("ggml_graph_overhead_custom")(tensors, False)
        self._memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
        self._context = call("ggml_init")(InitParams(size, _aligned(self._memory), True))
        self._graph = call("ggml_new_graph_custom")(self._context, tensors, False)
        self._library = library
        self._compute = call("ggml_graph_compute")

    def leaf(self, type_id: int, cols: int, rows: int, heads: int = 1) -> Any:
        return self._library.call("ggml_new_tensor_3d")(self._context, type_id, cols, rows, heads)

    def node(self, function: str, a: Any, b: Any) -> Any:
        return self._library.call(function)(self._context, a, b)

    def finish(self, result: Any) -> None:
        """No more nodes. The context ends here; the headers stay, they lie in our memory."""
        self._library.call("ggml_build_forward_expand")(self._graph, result)
        self._plan: GraphPlan = self._library.call("ggml_graph_plan")(self._graph, 1, None)
        self._plan_reference = ctypes.byref(self._plan)
        self._library.call("ggml_free")(self._context)

    def compute(self, work: Buffer) -> None:
        self._plan.work_data = work.address(self._plan.work_size)
        status = self._compute(self._graph, self._plan_reference)
        if status != 0:
            raise RuntimeError(f"ggml_graph_compute ended with status {status}")


def _set_stride(y: Any, token_stride: int) -> None:
    """Let the rows of a result lie further apart than they are long."""
    nb, ne = y.contents.nb, y.contents.ne
    nb[1] = token_stride
    nb[2] = token_stride * ne[1]
    nb[3] = nb[2] * ne[2]


def _aligned(data: np.ndarray) -> int:
    address: int = data.ctypes.data
    return -(-address // ALIGNMENT) * ALIGNMENT
