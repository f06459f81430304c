"""From statistics to the importance of each column."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.errors import ImatrixError
from quant.imatrix.imatrix import FLOOR, Imatrix, unseen_lines
from quant.imatrix.imatrix_file import ImatrixHeader, Statistics
from quant.tensor import QuantizedTensor
from quant.types import BLOCK_TYPES, BlockType
from tests.quant.imatrix_samples import DOWN, FUSED, GATE, KEYS, QUERY, UP, legacy_bytes, sample, write_gguf

QUICK = ("Q4_K", "Q2_K", "Q3_K", "Q5_0", "IQ4_XS")
SMALL_TYPES = [
    block if block.name in QUICK else pytest.param(block, marks=pytest.mark.slow)  # some make tables for seconds
    for block in BLOCK_TYPES
    if block.block_weights > 1 and block.name not in ("MXFP4", "Q8_0")
]


@pytest.fixture
def imatrix(tmp_path: Path):
    with Imatrix.open(write_gguf(tmp_path / "a.gguf", sample())) as opened:
        yield opened


def test_importance_is_the_mean_of_squared_inputs(imatrix: Imatrix) -> None:
    entry = sample()[GATE]
    importance = imatrix.importance(GATE, (3, 5, 8))
    assert (importance.shape, importance.dtype) == ((3, 8), torch.float32)
    assert np.array_equal(importance[0].numpy(), entry.sums[0] / np.float32(2))
    assert np.array_equal(importance[2].numpy(), entry.sums[2] / np.float32(4))


def test_an_expert_that_was_never_seen_has_equal_columns(imatrix: Imatrix) -> None:
    assert torch.equal(imatrix.importance(DOWN, (3, 8, 4))[1], torch.ones(4))
    assert imatrix.unseen() == {GATE: (1,), DOWN: (1,)}


def test_heads_have_their_own_importance_and_one_count(imatrix: Imatrix) -> None:
    expected = sample()[KEYS].sums.reshape(2, 4) / np.float32(6)
    assert np.array_equal(imatrix.importance(KEYS, (2, 16, 4)).numpy(), expected)


def test_a_plain_weight_is_one_slab(imatrix: Imatrix) -> None:
    assert imatrix.importance(QUERY, (5, 8)).shape == (1, 8)


def test_a_weight_that_was_not_collected_has_none(imatrix: Imatrix) -> None:
    assert imatrix.importance("output.weight", (5, 8)) is None
    assert not imatrix.covers("token_embd.weight")
    assert not imatrix.covers("output.weight")
    assert imatrix.covers(QUERY) and imatrix.covers(UP)


@pytest.mark.parametrize(("name", "width"), [(UP, 5), (FUSED, 10)])
def test_up_and_fused_experts_take_the_importance_of_gate(imatrix: Imatrix, name: str, width: int) -> None:
    assert torch.equal(imatrix.importance(name, (3, width, 8)), imatrix.importance(GATE, (3, 5, 8)))
    assert not imatrix.covers("blk.1.ffn_up.weight")  # plain ones have an entry of their own
    assert not imatrix.covers(UP.replace("blk.1", "blk.2"))


def test_gate_takes_the_importance_of_fused_experts(tmp_path: Path) -> None:
    with Imatrix.open(write_gguf(tmp_path / "a.gguf", {FUSED: sample()[GATE]})) as imatrix:
        assert all(map(imatrix.covers, (GATE, UP, FUSED)))


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 5, 8), (4, 5, 6), (24, 8)])
def test_another_models_importance_is_refused(imatrix: Imatrix, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImatrixError, match=r"24 numbers in 3 groups.*another model"):
        imatrix.importance(GATE, shape)


def test_no_column_is_without_any_importance(tmp_path: Path) -> None:
    sums = np.zeros((3, 512), np.float32)
    sums[0, :256] = 4
    sums[1] = 1e-30
    with Imatrix.open(write_gguf(tmp_path / "a.gguf", {GATE: Statistics(sums, np.ones(3, np.float32))})) as imatrix:
        first, second, third = imatrix.importance(GATE, (3, 5, 512))
    assert torch.equal(first[:256], torch.full((256,), 4.0))
    assert torch.allclose(first[256:], torch.full((256,), FLOOR * 2))
    # Nothing, and next to nothing: all columns count the same.
    assert torch.equal(second, torch.ones(512))
    assert torch.equal(third, torch.ones(512))


@pytest.mark.parametrize("block", SMALL_TYPES, ids=str)
def test_columns_that_were_never_used_are_encoded_as_well_as_without_importance(
    block: BlockType, tmp_path: Path
) -> None:
    """Encoders that get zeros for a whole block may write zeros."""
    sums = np.random.default_rng(0).random((1, 512), dtype=np.float32)
    sums[0, 256:] = 0
    with Imatrix.open(write_gguf(tmp_path / "a.gguf", {QUERY: Statistics(sums, np.ones(1, np.float32))})) as imatrix:
        importance = imatrix.importance(QUERY, (16, 512))[0]
    values = torch.randn(16, 512, generator=torch.Generator().manual_seed(1))

    def error(weights: torch.Tensor) -> float:
        decoded = dequantize(QuantizedTensor(block, (16, 512), encode(values, block, weights)))
        return float((decoded - values)[:, 256:].square().mean())

    assert error(importance) <= 1.05 * error(torch.ones(512))


@pytest.mark.parametrize(
    ("sums", "count"), [(np.nan, 1), (np.inf, 1), (-1.0, 1), (1.0, -1), (1.0, np.nan), (1.0, np.inf), (1e30, 1)]
)
def test_what_is_no_mean_of_squares_is_refused_when_the_file_is_opened(
    tmp_path: Path, sums: float, count: float
) -> None:
    values = np.full((1, 8), sums, np.float32)
    values[0, 0] = 1
    path = write_gguf(tmp_path / "a.gguf", {QUERY: Statistics(values, np.array([count], np.float32))})
    with pytest.raises(ImatrixError, match=r"blk\.1\.attn_q"):
        Imatrix.open(path)


def test_large_sums_of_many_tokens_are_no_problem(tmp_path: Path) -> None:
    entry = Statistics(np.full((1, 8), 1e25, np.float32), np.array([1e6], np.float32))
    with Imatrix.open(write_gguf(tmp_path / "a.gguf", {QUERY: entry})) as imatrix:
        assert torch.allclose(imatrix.importance(QUERY, (5, 8)), torch.tensor(1e19))


def test_the_older_form_gives_the_same_importance(imatrix: Imatrix, tmp_path: Path) -> None:
    entry = sample()[GATE]
    means = np.divide(entry.sums, entry.counts[:, None], out=np.ones_like(entry.sums), where=entry.counts[:, None] > 0)
    (tmp_path / "a.dat").write_bytes(legacy_bytes({GATE: (4, (means * 4).flatten().tolist())}))
    with Imatrix.open(tmp_path / "a.dat") as legacy:
        assert torch.equal(legacy.importance(GATE, (3, 5, 8)), imatrix.importance(GATE, (3, 5, 8)))
        assert legacy.unseen() == {}  # this form cannot say it


def test_the_quantized_file_will_name_its_importance(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", sample(), ImatrixHeader(("a.txt", "b.txt"), 12, 512))
    with Imatrix.open(path) as imatrix:
        assert [(entry.key, entry.type, entry.value) for entry in imatrix.metadata()] == [
            ("quantize.imatrix.file", "string", str(path)),
            ("quantize.imatrix.dataset", "string", "a.txt, b.txt"),
            ("quantize.imatrix.entries_count", "uint32", 4),
            ("quantize.imatrix.chunks_count", "uint32", 12),
        ]
        assert imatrix.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_unseen_experts_are_told_once_a_layer() -> None:
    unseen = {GATE: (4, 7, 8, 9), UP: (4, 7, 8, 9), "blk.2.ffn_down_exps.weight": (0,)}
    assert unseen_lines(unseen) == ["blk.1: 4 experts (4, 7-9)", "blk.2: 1 expert (0)"]
