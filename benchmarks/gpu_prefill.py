"""Many tokens through a layer's 384 experts on tensor cores."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_decode import FF, HIDDEN, LAYERS, PLACES, USED
from benchmarks.gpu_timing import slot_table, timed
from quant.kernels.card import CardTensor
from quant.kernels.triton.kernels import TritonKernels

Figure = dict[str, Any]
EXPERTS = 384
TOKENS = (4096, 16384)


def prefill(kernels: TritonKernels, roofs: Figure) -> Iterator[Figure]:
    """Tokens that choose 8 of 384 experts evenly, from x to y, and the matrices of attention's output."""
    for types in (("Q4_K", "Q4_K"), ("Q4_K", "Q6_K")):
        table = slot_table(types, FF, HIDDEN, EXPERTS, PLACES)
        for tokens in TOKENS:
            slots = torch.rand(tokens, EXPERTS, device="cuda").topk(USED, dim=1).indices.int()
            x, weights = torch.randn(tokens, HIDDEN, device="cuda"), torch.rand(tokens, USED, device="cuda")
            time = timed(partial(kernels.experts, x, table, slots, weights), replays=5)
            flop = 2 * tokens * USED * 3 * FF * HIDDEN
            yield {
                "types": "/".join(types),
                "tokens": tokens,
                "tokens_per_s_60_layers": tokens / time.median / LAYERS,
                "milliseconds": time.median * 1e3,
                "least": time.least * 1e3,
                "most": time.most * 1e3,
                "flop_per_s": flop / time.median,
                "of_matmul": flop / time.median / roofs["matmul_flop_per_s"],
            }
        matrix = CardTensor(table.gate_up, (HIDDEN, HIDDEN), table.arena[: table.gate_up.nbytes((HIDDEN, HIDDEN))])
        x = torch.randn(TOKENS[0], HIDDEN, device="cuda").bfloat16()
        time = timed(partial(kernels.linear, x, matrix))
        flop = 2 * TOKENS[0] * HIDDEN * HIDDEN
        yield {
            "linear": types[0],
            "tokens": TOKENS[0],
            "milliseconds": time.median * 1e3,
            "of_matmul": flop / time.median / roofs["matmul_flop_per_s"],
        }
        del table, matrix
        torch.cuda.empty_cache()
