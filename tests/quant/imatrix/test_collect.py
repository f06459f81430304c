"""Kernels that count: what they compute stays the same, and every weight gets the squares of its own inputs."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from quant.encode.decode import dequantize
from quant.errors import ImatrixError
from quant.imatrix.collect import CollectingKernels
from quant.kernels import ExpertCall, ExpertWeights, make_kernels
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.kernels.samples import call, random
from tests.quant.random_weights import random_weights

EXPERTS, FF, HIDDEN = 4, 96, 64


def weights(kind: str, *shape: int, seed: int = 1) -> QuantizedTensor:
    return random_weights(block_type(kind), shape, seed)


class Layer:
    """The stacked experts of one layer."""

    def __init__(self, kind: str = "Q8_0") -> None:
        self.gate = weights(kind, EXPERTS, FF, HIDDEN, seed=1)
        self.up = weights(kind, EXPERTS, FF, HIDDEN, seed=2)
        self.down = weights(kind, EXPERTS, HIDDEN, FF, seed=3)

    def watch(self, kernels: CollectingKernels) -> None:
        for name in ("gate", "up", "down"):
            kernels.watch(f"blk.0.{name}", getattr(self, name))

    def expert(self, index: int) -> ExpertWeights:
        return ExpertWeights(self.gate.slab(index), self.up.slab(index), self.down.slab(index))

    def calls(self) -> list[ExpertCall]:
        """Expert 1 is never asked, expert 3 without tokens."""
        return [call(self.expert(0), [0, 2, 4]), call(self.expert(2), [1, 2]), call(self.expert(3), [])]


def up_is_gate(name: str) -> str:
    return name.replace(".up", ".gate")


@pytest.fixture(params=["reference", "ggml", "native"])
def kernels(request: pytest.FixtureRequest) -> Iterator[CollectingKernels]:
    made = CollectingKernels(make_kernels(request.param, 2), lambda name: name.startswith("blk."), up_is_gate)
    yield made
    made.close()


def squares(x: Tensor) -> np.ndarray:
    return x.double().square().sum(0).numpy()


def test_a_product_stays_what_it_is_and_its_inputs_are_counted(kernels: CollectingKernels) -> None:
    w, x = weights("Q8_0", 48, HIDDEN), random(5, HIDDEN)
    kernels.watch("blk.0.q", w)
    assert torch.equal(kernels.linear(x, w), kernels.inner.linear(x, w))
    assert np.allclose(kernels.statistics("blk.0.q").sums, squares(x)[None], rtol=1e-6)
    assert kernels.statistics("blk.0.q").counts.tolist() == [5]


def test_heads_are_one_group_of_columns_head_after_head(kernels: CollectingKernels) -> None:
    w, x = weights("Q8_0", 3, 48, HIDDEN), random(5, 3, HIDDEN)
    kernels.watch("blk.0.k", w)
    assert torch.equal(kernels.linear_heads(x, w), kernels.inner.linear_heads(x, w))
    entry = kernels.statistics("blk.0.k")
    assert np.allclose(entry.sums, squares(x).reshape(1, -1), rtol=1e-6)
    assert entry.counts.tolist() == [5]


def test_experts_compute_the_same_within_the_tolerance_of_the_kernels(kernels: CollectingKernels) -> None:
    layer, x = Layer(), random(5, HIDDEN)
    layer.watch(kernels)
    expected = kernels.inner.experts(x, layer.calls())
    difference = kernels.experts(x, layer.calls()) - expected
    assert float(difference.abs().max()) < 1e-4 * float(expected.abs().max())


def test_each_expert_counts_its_own_tokens(kernels: CollectingKernels) -> None:
    layer, x = Layer("F32"), random(5, HIDDEN)
    layer.watch(kernels)
    kernels.experts(x, layer.calls())
    tokens = {0: [0, 2, 4], 2: [1, 2]}
    for name in ("gate", "up", "down"):
        entry = kernels.statistics(f"blk.0.{name}")
        assert entry.counts.tolist() == [3, 0, 2, 0]
        assert not entry.sums[[1, 3]].any()
        for expert, rows in tokens.items():
            gate, up = (dequantize(w.slab(expert)).double() for w in (layer.gate, layer.up))
            inputs = x[rows].double()
            if name == "down":
                inputs = silu(inputs @ gate.T) * (inputs @ up.T)
            assert np.allclose(entry.sums[expert], squares(inputs), rtol=1e-4)


def test_fused_experts_are_found_inside_their_tensor(kernels: CollectingKernels) -> None:
    both, down = weights("Q8_0", EXPERTS, 2 * FF, HIDDEN), weights("Q8_0", EXPERTS, HIDDEN, FF)
    kernels.watch("blk.0.gate_up", both)
    kernels.watch("blk.0.down", down)
    slab = both.slab(2)
    expert = ExpertWeights(slab.row_range(0, FF), slab.row_range(FF, 2 * FF), down.slab(2))
    kernels.experts(random(5, HIDDEN), [call(expert, [0, 1])])
    assert kernels.statistics("blk.0.gate_up").counts.tolist() == [0, 0, 2, 0]
    assert np.allclose(kernels.statistics("blk.0.gate_up").sums[2], squares(random(5, HIDDEN)[:2]), rtol=1e-6)


def test_weights_that_nobody_wants_are_not_counted(kernels: CollectingKernels) -> None:
    head, stranger = weights("Q8_0", 48, HIDDEN), weights("Q8_0", 48, HIDDEN, seed=2)
    kernels.watch("output.weight", head)
    for w in (head, stranger):
        kernels.linear(random(5, HIDDEN), w)
    assert kernels.shapes == {}
    assert kernels.nbytes == 0


def test_gate_and_up_share_their_memory(kernels: CollectingKernels) -> None:
    layer = Layer()
    layer.watch(kernels)
    assert kernels.nbytes == 4 * EXPERTS * (HIDDEN + FF)
    kernels.experts(random(5, HIDDEN), layer.calls())
    assert np.shares_memory(kernels.statistics("blk.0.gate").sums, kernels.statistics("blk.0.up").sums)
    assert kernels.shapes == {"blk.0.down": (4, FF), "blk.0.gate": (4, HIDDEN), "blk.0.up": (4, HIDDEN)}


def run_chunks(kernels: CollectingKernels, layer: Layer, query: QuantizedTensor, seeds: list[int]) -> None:
    for seed in seeds:
        x = random(5, HIDDEN, seed=seed)
        kernels.linear(x, query)
        kernels.experts(x, layer.calls())
        kernels.end_chunk()


def counting(layer: Layer, query: QuantizedTensor, **options) -> CollectingKernels:
    made = CollectingKernels(make_kernels("reference", 1), lambda name: True, up_is_gate, **options)
    layer.watch(made)
    made.watch("blk.0.q", query)
    return made


def assert_equal(first: CollectingKernels, second: CollectingKernels) -> None:
    assert first.shapes == second.shapes
    for name in first.shapes:
        assert np.array_equal(first.statistics(name).sums, second.statistics(name).sums)
        assert np.array_equal(first.statistics(name).counts, second.statistics(name).counts)


def test_what_goes_on_from_stored_totals_ends_with_the_same_bits() -> None:
    layer, query = Layer(), weights("Q8_0", 48, HIDDEN)
    whole = counting(layer, query)
    run_chunks(whole, layer, query, [1, 2, 3])
    first = counting(layer, query)
    run_chunks(first, layer, query, [1])
    second = counting(layer, query)
    for name in first.shapes:
        second.restore(name, first.statistics(name))
    run_chunks(second, layer, query, [2, 3])
    assert_equal(second, whole)


class Stop(Exception):
    pass


@pytest.mark.parametrize("products", [1, 2, 3])
def test_a_chunk_that_is_stopped_and_done_again_counts_once(products: int) -> None:
    layer, query = Layer(), weights("Q8_0", 48, HIDDEN)
    left = [1000]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    kernels = counting(layer, query, check=check)
    run_chunks(kernels, layer, query, [1])
    left[0] = products - 1
    with pytest.raises(Stop):
        run_chunks(kernels, layer, query, [2, 3])
    assert ("blk.0.q" in kernels.in_chunk) == (products > 1)
    assert "blk.0.gate" not in kernels.in_chunk  # the experts of a layer are counted all or none
    left[0] = 1000
    run_chunks(kernels, layer, query, [2])
    whole = counting(layer, query)
    run_chunks(whole, layer, query, [1, 2])
    assert_equal(kernels, whole)


def test_nan_is_not_counted() -> None:
    layer, query = Layer(), weights("Q8_0", 48, HIDDEN)
    kernels = counting(layer, query)
    x = random(5, HIDDEN)
    x[1, 3] = float("nan")
    with pytest.raises(ImatrixError, match=r"inputs of blk\.0\.q hold NaN"):
        kernels.linear(x, query)
    assert kernels.shapes == {}


def test_totals_of_another_model_are_refused() -> None:
    layer, query = Layer(), weights("Q8_0", 48, HIDDEN)
    kernels = counting(layer, query)
    run_chunks(kernels, layer, query, [1])
    for name, wrong in (("blk.9.q", "blk.0.q"), ("blk.0.down", "blk.0.gate"), ("blk.0.q", "blk.0.gate")):
        with pytest.raises(ImatrixError, match=f"statistics of {name}"):
            kernels.restore(name, kernels.statistics(wrong))


def test_wrong_calls_are_refused_as_by_other_kernels(kernels: CollectingKernels) -> None:
    layer = Layer()
    layer.watch(kernels)
    with pytest.raises(ValueError, match="calls name tokens"):
        kernels.experts(random(2, HIDDEN), [call(layer.expert(0), [7])])
    assert kernels.serves(block_type("Q8_0"))
    assert torch.equal(kernels.rows(layer.gate.slab(0), torch.tensor([1])), dequantize(layer.gate.slab(0))[1:2])
