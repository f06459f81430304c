"""Kernels of the ggml library, fed from threads of our own.

A product becomes a list of small tasks, and the pool's threads take one after the other: a slow core takes fewer.
Activations are converted to the type that ggml's dot products take once per call.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from quant.encode.decode import dequantize_rows
from quant.ggml_library import load_ggml
from quant.kernels import ExpertCall
from quant.kernels.checks import check_experts, check_heads, check_linear, check_rows
from quant.kernels.ggml_activations import activation_format, converted
from quant.kernels.ggml_graph import Worker
from quant.kernels.ggml_tasks import Inputs, gated_tasks, head_tasks, product_tasks
from quant.kernels.worker_pool import Task, WorkerPool
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType

THREAD_BYTES = 1 << 20  # a thread is woken for at least this much work (some 0.1 ms), in bytes of weights read once
COMPUTE_TOKENS = 4  # multiplying a weight with this many tokens takes about as long as reading it
WAVE_ROWS = 1024  # expert outputs kept at a time, summed over experts


class GgmlKernels:
    """Products with ggml. The pool's threads belong to this object; one call at a time, others wait."""

    def __init__(self, threads: int) -> None:
        library = load_ggml()
        formats = {block.ggml_id: activation_format(library, block) for block in BLOCK_TYPES}
        self._formats = {ggml_id: form for ggml_id, form in formats.items() if form is not None}
        self._pool = WorkerPool(threads, lambda: Worker(library), "k2lite-kernels")

    def serves(self, block: BlockType) -> bool:
        return block.ggml_id in self._formats

    def linear(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        check_linear(self, x, w)
        y = torch.empty(x.shape[0], w.rows)
        if y.numel():
            inputs = self._inputs([(x, w.type)])[0]
            self._run(product_tasks(inputs, w, y), _cost(w, y.shape[0]))
        return y

    def linear_heads(self, x: Tensor, w: QuantizedTensor) -> Tensor:
        check_heads(self, x, w)
        y = torch.empty(x.shape[0], *w.shape[:2])
        if y.numel():
            inputs = self._inputs([(x.transpose(0, 1), w.type)])[0]
            self._run(head_tasks(inputs, w, y), _cost(w, y.shape[0]))
        return y

    def experts(self, x: Tensor, calls: Sequence[ExpertCall]) -> Tensor:
        check_experts(self, x, calls)
        total = torch.zeros(x.shape)
        active = [call for call in calls if call.tokens.numel()]
        types = list({w.type: None for call in active for w in (call.weights.gate, call.weights.up)})
        inputs = dict(zip(types, self._inputs([(x, block) for block in types]), strict=True))
        for wave in _waves(active):
            hidden = self._gated(inputs, wave)
            results = self._down(hidden, wave)
            results.mul_(torch.cat([call.scales for call in wave])[:, None])
            total.index_add_(0, torch.cat([call.tokens for call in wave]), results)
        return total

    def rows(self, w: QuantizedTensor, ids: Tensor) -> Tensor:
        check_rows(w, ids)
        self._pool.check_open()
        return dequantize_rows(w, ids)

    def close(self) -> None:
        self._pool.close()

    def _gated(self, inputs: dict[BlockType, Inputs], wave: Sequence[ExpertCall]) -> list[Tensor]:
        """silu(gate x) * up x of each call: [n, ff]."""
        outputs, tasks = [], []
        for call in wave:
            gate, up, y = call.weights.gate, call.weights.up, torch.empty(call.tokens.numel(), call.weights.gate.rows)
            gate_x = _taken(inputs[gate.type], call.tokens)
            up_x = gate_x if inputs[up.type].form is gate_x.form else _taken(inputs[up.type], call.tokens)
            outputs.append(y)
            tasks.append(gated_tasks(gate_x, gate, up_x, up, y))
        cost = sum(_cost(w, call.tokens.numel()) for call in wave for w in (call.weights.gate, call.weights.up))
        self._run(chain.from_iterable(tasks), cost)
        return outputs

    def _down(self, hidden: Sequence[Tensor], wave: Sequence[ExpertCall]) -> Tensor:
        """The down products of all calls, one below the other: [sum of n, hidden]."""
        inputs = self._inputs([(x, call.weights.down.type) for x, call in zip(hidden, wave, strict=True)])
        counts = [x.shape[0] for x in hidden]
        results = torch.empty(sum(counts), wave[0].weights.down.rows)
        parts = results.split(counts)
        tasks = [product_tasks(x, call.weights.down, part) for x, call, part in zip(inputs, wave, parts, strict=True)]
        self._run(chain.from_iterable(tasks), sum(_cost(call.weights.down, call.tokens.numel()) for call in wave))
        return results

    def _inputs(self, sources: Sequence[tuple[Tensor, BlockType]]) -> list[Inputs]:
        """Activations [..., cols] f32 converted to what weights of each type are multiplied with."""
        results, tasks, nbytes = [], [], 0
        for x, block in sources:
            form = self._formats[block.ggml_id]
            data, more = converted(x.contiguous(), form)
            results.append(Inputs(data, form))
            tasks.extend(more)
            nbytes += x.nbytes
        self._run(tasks, nbytes)
        return results

    def _run(self, tasks: Iterable[Task[Worker]], cost: int) -> None:
        self._pool.run(list(tasks), cost // THREAD_BYTES)


def _cost(w: QuantizedTensor, tokens: int) -> int:
    """Work of a product, in bytes of weights read once."""
    return w.nbytes * max(COMPUTE_TOKENS, tokens) // COMPUTE_TOKENS


def _taken(inputs: Inputs, tokens: Tensor) -> Inputs:
    """The rows that a call asks for."""
    if inputs.data.shape[0] == tokens.numel() == 1:
        return inputs
    return Inputs(inputs.data[tokens], inputs.form)


def _waves(calls: Sequence[ExpertCall]) -> Iterator[list[ExpertCall]]:
    """Runs of calls whose outputs fit into WAVE_ROWS rows; a larger call is a run of its own."""
    wave: list[ExpertCall] = []
    rows = 0
    for call in calls:
        if wave and rows + call.tokens.numel() > WAVE_ROWS:
            yield wave
            wave, rows = [], 0
        wave.append(call)
        rows += call.tokens.numel()
    if wave:
        yield wave
