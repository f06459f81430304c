"""A program for test_triton.py: the card kernels in Triton's interpreter, on tensors in RAM.

Prints one JSON object: case -> relative error against float64 products of what the gguf package decodes. It is a
process of its own, since Triton decides when it is imported whether it compiles or interprets.
"""

import json
import os
import sys
from collections.abc import Iterator

os.environ["TRITON_INTERPRET"] = "1"

import torch

from quant.kernels.card import make_card_kernels
from quant.kernels.triton import grouped
from tests.quant.kernels.card_samples import (
    TYPES,
    Experts,
    random,
    relative_error,
    routed,
    sample,
)

CPU = torch.device("cpu")
KERNELS = make_card_kernels("triton")


def main() -> int:
    torch.set_num_threads(1)
    cases = dict(item for part in (linear(), tails(), heads(), rows(), experts()) for item in part)
    print(json.dumps(cases))
    return 0


def linear() -> Iterator[tuple[str, float]]:
    """Every type, with whole blocks of 256 that fill no tile, and every number of tokens for one of them."""
    for name in TYPES:
        w, exact = sample(name, (3, 768), CPU)
        for tokens in (1, 2, 5, 8) if name == "Q4_0" else (1, 3):
            x = random(tokens, 768, device=CPU)
            yield f"linear {name} {tokens}", relative_error(KERNELS.linear(x, w), x.double() @ exact.T)
        x = random(9, 768, device=CPU)
        yield f"many {name}", relative_error(KERNELS.linear(x, w), x.double() @ exact.T)


def tails() -> Iterator[tuple[str, float]]:
    """Rows that are multiples of 32 only."""
    for name in ("Q8_0", "Q4_0", "Q5_0"):
        for cols in (32, 352):
            w, exact = sample(name, (3, cols), CPU)
            x = random(2, cols, device=CPU).bfloat16()
            yield f"linear {name} of {cols}", relative_error(KERNELS.linear(x, w), x.double() @ exact.T)


def heads() -> Iterator[tuple[str, float]]:
    """Each head by its own matrix, from a view of which only rows lie together."""
    w, exact = sample("Q5_0", (3, 5, 64), CPU)
    for tokens in (2, 9):
        x = random(3, tokens, 64, device=CPU).transpose(0, 1)
        wanted = torch.einsum("thc,hrc->thr", x.double(), exact)
        yield f"heads {tokens}", relative_error(KERNELS.linear_heads(x, w), wanted)


def rows() -> Iterator[tuple[str, float]]:
    """An embedding's rows, some of them twice."""
    ids = torch.tensor([4, 0, 0])
    for name in TYPES:
        w, exact = sample(name, (5, 512), CPU)
        yield f"rows {name}", relative_error(KERNELS.rows(w, ids), exact[ids])


def experts() -> Iterator[tuple[str, float]]:
    """Slots that are here and slots that are not, experts that tokens share, and all kinds of types and tails."""
    for types, ff, hidden in (("Q8_0", "Q4_0"), 32, 64), (("Q5_0", "Q8_0"), 64, 32):
        several = Experts(types, ff, hidden, count=3, device=CPU)
        for chosen in ([[2, -1]], [[2, 1], [1, -1], [0, 1]]):
            x = random(len(chosen), hidden, device=CPU)
            slots, weights = routed(chosen, CPU)
            found = KERNELS.experts(x, several.table, slots, weights)
            yield f"experts {' '.join(types)} {len(chosen)}", relative_error(found, several.exact(x, slots, weights))
    several = Experts(("Q8_0", "Q8_0"), 32, 32, count=4, device=CPU)
    for tokens in (2, 10):
        x = random(tokens, 32, device=CPU)
        slots, weights = routed([[0, 1, 2, 3]] * tokens, CPU)
        found = KERNELS.experts(x, several.table, slots, weights)
        yield f"all slots {tokens}", relative_error(found, several.exact(x, slots, weights))
        nothing = KERNELS.experts(x, several.table, torch.full_like(slots, -1), weights)
        yield f"no slots {tokens}", float(nothing.abs().max())
    yield from parts(several)


def parts(several: Experts) -> Iterator[tuple[str, float]]:
    """An expert's tokens in several products: the same as in one, and right."""
    x, places = random(10, 32, device=CPU), grouped.places_together
    slots, weights = routed([[0, 1, 2, 3], [3, -1, -1, -1]] * 5, CPU)
    once = KERNELS.experts(x, several.table, slots, weights)
    for most in (1, 3, 7):
        grouped.places_together = lambda hidden, most=most: most
        found = KERNELS.experts(x, several.table, slots, weights)
        yield f"all slots 10 in parts of {most}", relative_error(found, several.exact(x, slots, weights))
        yield f"parts of {most} and one", relative_error(found, once.double())
    grouped.places_together = places


if __name__ == "__main__":
    sys.exit(main())
