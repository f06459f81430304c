"""Weights, slot tables and routed tokens for card kernels, without the encoders: a bare machine has none."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize
from quant.kernels.card import CardTensor, SlotTable, upload
from quant.tensor import QuantizedTensor
from quant.types import BlockType, block_type

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q5_0", "IQ4_XS")
# Where the half-precision numbers of a block lie; all other bytes may be anything.
HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "IQ4_XS": (0,)}
FLOAT32_ERROR = 1e-4  # of one product of a few numbers; 2e-5 of many, from 16-bit activations
BFLOAT16_ERROR = 1e-2
EXPERT_ERROR = 3  # three products, in units of one


def random_blocks(block: BlockType, shape: tuple[int, ...], seed: int = 0) -> QuantizedTensor:
    """Random bytes with scales of about 1 / sqrt(cols), so that products stay of the activations' size."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (block.nbytes(shape) // block.block_bytes, block.block_bytes), dtype=np.uint8)
    size = {"Q4_K": 1 / 200, "Q5_K": 1 / 400, "Q6_K": 1 / 2000, "Q8_0": 1 / 70, "Q4_0": 1 / 5, "Q5_0": 1 / 10}
    scale = size.get(block.name, 1 / 1000) / shape[-1] ** 0.5
    for offset in HALVES[block.name]:
        halves = (generator.uniform(0.5, 1.5, len(blocks)) * scale).astype(np.float16)
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
    return QuantizedTensor(block, shape, blocks.reshape(-1))


@lru_cache(maxsize=8)
def _decoded(name: str, shape: tuple[int, ...]) -> tuple[QuantizedTensor, Tensor]:
    weights = random_blocks(block_type(name), shape)
    return weights, dequantize(weights).double()


def sample(name: str, shape: tuple[int, ...], device: torch.device) -> tuple[CardTensor, Tensor]:
    """Weights on the device, and what the gguf package says that they are, float64 in RAM."""
    weights, exact = _decoded(name, shape)
    return upload(weights, device), exact


def random(*shape: int, device: torch.device, seed: int = 1) -> Tensor:
    """Activations, float32 on the device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


class Experts:
    """`count` random experts scattered over an arena, with gaps, at addresses that are multiples of 32 and no more."""

    def __init__(self, types: tuple[str, str], ff: int, hidden: int, count: int, device: torch.device) -> None:
        gate_up, down = (block_type(name) for name in types)
        shapes = [(gate_up, (ff, hidden)), (gate_up, (ff, hidden)), (down, (hidden, ff))]
        matrices = [
            [random_blocks(block, shape, 3 * expert + part) for part, (block, shape) in enumerate(shapes)]
            for expert in range(count)
        ]
        size = sum(-(-w.nbytes // 32) * 32 + 32 for expert in matrices for w in expert)
        # Bytes between the matrices are all ones: as halves they are NaN, which a kernel that reads there would show.
        memory = torch.full((size + 64,), 255, dtype=torch.uint8, device=device)
        arena = memory[-memory.data_ptr() % 64 + 32 :]
        table = torch.empty(count, 3, dtype=torch.int64)
        place = 32
        for part in (2, 0, 1):
            for expert in reversed(range(count)):
                data = torch.from_numpy(matrices[expert][part].data)
                arena[place : place + len(data)] = data.to(device)
                table[expert, part] = place
                place += -(-len(data) // 32) * 32 + 32
        self.table = SlotTable(arena, table.to(device), gate_up, down, ff, hidden)
        self._exact = [[dequantize(w).double() for w in expert] for expert in matrices]

    def exact(self, x: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """The weighted sums, float64 in RAM."""
        x, total = x.double().cpu(), torch.zeros(x.shape, dtype=torch.float64)
        for token, (row, scales) in enumerate(zip(slots.tolist(), weights.tolist(), strict=True)):
            for slot, scale in zip(row, scales, strict=True):
                if slot >= 0:
                    gate, up, down = self._exact[slot]
                    total[token] += scale * (down @ (silu(gate @ x[token]) * (up @ x[token])))
        return total


def routed(slots: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Slots int32 [T, k], and weights float32 for them, on the device."""
    chosen = torch.tensor(slots, dtype=torch.int32)
    weights = torch.rand(chosen.shape, generator=torch.Generator().manual_seed(7)) + 0.1
    return chosen.to(device), weights.to(device)


def random_slots(tokens: int, used: int, count: int, absent: int, seed: int = 3) -> list[list[int]]:
    """`used` different experts for each token out of `count` slots and `absent` that are not here (-1)."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(count + absent, generator=generator)[:used].tolist() for _ in range(tokens)]
    return [[slot if slot < count else -1 for slot in row] for row in rows]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference in units of the exact result's; infinite where a result is not finite."""
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    difference = found.double().cpu() - exact
    return float(difference.norm() / exact.norm()) if bool(torch.isfinite(difference).all()) else float("inf")
