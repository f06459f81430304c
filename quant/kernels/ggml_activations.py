"""Activations in the types that ggml's dot products take: 8-bit blocks for quantized weights, half for half weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.ggml_library import CONVERT_ROWS, GgmlLibrary
from quant.kernels.ggml_graph import F32, Worker
from quant.kernels.worker_pool import Task
from quant.types import BlockType

TASK_WEIGHTS = 1 << 17  # a task converts about this many floats, some 0.1 ms


@dataclass(frozen=True, eq=False)
class ActivationFormat:
    """A type of activations. `convert` is C: (float32 address, destination address, number of floats)."""

    ggml_id: int
    block_weights: int
    block_bytes: int
    convert: Callable[[int, int, int], None]

    def empty(self, x: Tensor) -> Tensor:
        """Room for the rows of `x` [..., cols] f32: uint8 [..., row bytes]."""
        row_bytes = x.shape[-1] // self.block_weights * self.block_bytes
        return torch.empty(*x.shape[:-1], row_bytes, dtype=torch.uint8)


def activation_format(library: GgmlLibrary, block: BlockType) -> ActivationFormat | None:
    """What weights of type `block` are multiplied with. None when ggml cannot multiply them."""
    traits = library.cpu_traits(block.ggml_id)
    if not traits.vec_dot:
        return None
    convert = library.cpu_traits(traits.vec_dot_type).from_float
    if not convert:
        return None
    layout = library.call("ggml_get_type_traits")(traits.vec_dot_type).contents
    return ActivationFormat(traits.vec_dot_type, layout.block_weights, layout.block_bytes, CONVERT_ROWS(convert))


def converted(x: Tensor, form: ActivationFormat) -> tuple[Tensor, list[Task[Worker]]]:
    """Contiguous x [..., cols] f32 -> uint8 [..., row bytes], valid once the tasks have run. Float32 needs none."""
    if form.ggml_id == F32:
        return x.view(torch.uint8), []
    result = form.empty(x)
    rows, cols, row_bytes = x.numel() // x.shape[-1], x.shape[-1], result.shape[-1]
    step = max(1, TASK_WEIGHTS // cols)
    tasks: list[Task[Worker]] = [
        _Conversion(form, x, result, start * cols * 4, start * row_bytes, min(step, rows - start) * cols)
        for start in range(0, rows, step)
    ]
    return result, tasks


@dataclass(frozen=True, eq=False, slots=True)
class _Conversion:
    """A run of whole rows. Holds both tensors, so that their memory outlives it."""

    form: ActivationFormat
    x: Tensor
    result: Tensor
    x_offset: int
    result_offset: int
    count: int

    def __call__(self, worker: Worker) -> None:
        self.form.convert(self.x.data_ptr() + self.x_offset, self.result.data_ptr() + self.result_offset, self.count)
