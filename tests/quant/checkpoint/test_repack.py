"""INT4 groups become Q4_0 blocks whose weights are the same float32 numbers, bit for bit."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.checkpoint.checkpoint import Checkpoint
from quant.checkpoint.int4 import Int4Weights, decode_int4
from quant.checkpoint.repack import BLOCK_BYTES, InexactScales, repack_q4_0
from quant.encode.decode import dequantize
from quant.errors import CheckpointError, EncodeError
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.raw_safetensors import INT4_CONFIG, int4_triple, write_folder

GOLDEN_WORDS = (0x87654321, 0x8FEDCBA9, 0x4C3D2E1F, 0x08796A5B)
GOLDEN_BLOCK = "2818f112e324d536c748b95aab6c9d7e8f08"


def repacked(weights: Int4Weights) -> tuple[Tensor, int]:
    """The Q4_0 bytes [rows, cols / 32, 18], and the number of rounded scales."""
    blocks = torch.empty(*weights.scales.shape, BLOCK_BYTES, dtype=torch.uint8)
    inexact = repack_q4_0(weights, blocks)
    return blocks, inexact


def decoded(blocks: Tensor) -> Tensor:
    """What the gguf package reads out of Q4_0 bytes."""
    shape = (blocks.shape[0], blocks.shape[1] * 32)
    return dequantize(QuantizedTensor(block_type("Q4_0"), shape, blocks.reshape(-1).numpy()))


def bits(values: Tensor) -> Tensor:
    """float32 as integers, so that zeros differ by their sign."""
    return values.contiguous().view(torch.int32)


def random_words(rows: int, groups: int, seed: int) -> Tensor:
    words = np.random.default_rng(seed).integers(0, 2**32, (rows, groups * 4), dtype=np.uint32)
    return torch.from_numpy(words.view(np.int32))


def test_the_block_worked_out_by_hand() -> None:
    words = torch.from_numpy(np.array([GOLDEN_WORDS], dtype=np.uint32).view(np.int32))
    scale = torch.tensor([[0x3B05]], dtype=torch.int16).view(torch.bfloat16)
    blocks, inexact = repacked(Int4Weights(words, scale))
    assert bytes(blocks.numpy()).hex() == GOLDEN_BLOCK
    assert inexact == 0


@pytest.mark.parametrize("seed", range(5))
def test_random_weights_of_all_sixteen_levels_keep_every_bit(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = (torch.randn(16, 24, generator=generator) * 0.01).bfloat16()
    scales[scales.abs() < 2.0**-17] = 2.0**-17
    weights = Int4Weights(random_words(16, 24, seed), scales)
    blocks, inexact = repacked(weights)
    assert inexact == 0
    assert torch.equal(bits(decoded(blocks)), bits(decode_int4(weights)))


def test_every_bfloat16_scale_that_float16_holds_keeps_every_bit_and_the_others_are_counted() -> None:
    scales = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    scales = scales[torch.isfinite(scales) & (scales.abs() <= 65280)].view(-1, 1)
    weights = Int4Weights(random_words(len(scales), 1, seed=1), scales)
    blocks, inexact = repacked(weights)
    held = scales.float().half().float() == scales.float()
    assert inexact == int((~held).sum()) > 0
    rows = held.view(-1)
    assert torch.equal(bits(decoded(blocks)[rows]), bits(decode_int4(weights)[rows]))
    in_range = (scales.abs() >= 2.0**-17) & (scales.abs() <= 65280)
    assert bool(held[in_range].all()), "all scales from 2^-17 to 65280 are exact"


@pytest.mark.parametrize(
    ("scale", "dtype", "inexact"),
    [
        (2.0**-17, torch.bfloat16, 0),
        (2.0**-17 * (1 + 2**-7), torch.bfloat16, 0),
        (2.0**-18 * (1 + 2**-7), torch.bfloat16, 1),
        (2.0**-18, torch.bfloat16, 0),
        (2.0**-24, torch.bfloat16, 0),
        (2.0**-25, torch.bfloat16, 1),
        (1e-40, torch.float32, 1),
        (65280.0, torch.bfloat16, 0),
        (65504.0, torch.float32, 0),
        (65505.0, torch.float32, 1),
        (0.1, torch.float32, 1),
        (0.1, torch.float16, 0),
        (-0.00202941894, torch.bfloat16, 0),
        (0.0, torch.bfloat16, 0),
        (-0.0, torch.bfloat16, 0),
    ],
)
def test_scales_at_the_edges(scale: float, dtype: torch.dtype, inexact: int) -> None:
    weights = Int4Weights(random_words(1, 1, seed=2), torch.tensor([[scale]], dtype=dtype))
    blocks, count = repacked(weights)
    assert count == inexact
    if not inexact:
        assert torch.equal(bits(decoded(blocks)), bits(decode_int4(weights)))


def test_a_rounded_scale_is_the_nearest_float16() -> None:
    blocks, _ = repacked(Int4Weights(random_words(1, 1, seed=3), torch.tensor([[0.1]])))
    assert blocks[0, 0, :2].view(torch.float16).item() == torch.tensor(0.1).half().item()


@pytest.mark.parametrize("scale", [65536.0, -70000.0, 3e38])
def test_a_scale_beyond_float16_is_refused_by_the_tensors_name(tmp_path: Path, scale: float) -> None:
    parts = int4_triple("a")
    parts["a.weight_scale"][2, 1] = scale
    with (
        Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, INT4_CONFIG)) as checkpoint,
        pytest.raises(EncodeError, match=r"a\.weight: a group's scale is .* float16, which ends at 65504"),
    ):
        checkpoint.read_q4_0("a.weight", 0, 4)


def test_any_rows_of_a_tensor_are_repacked_alone(tmp_path: Path) -> None:
    parts = int4_triple("a", rows=300, cols=8192)
    parts["a.weight_packed"] = random_words(300, 256, seed=4)
    parts["a.weight_scale"] = torch.rand(300, 256, generator=torch.Generator().manual_seed(4))
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, INT4_CONFIG)) as checkpoint:
        for start, stop in ((0, 300), (7, 290), (299, 300), (5, 5)):
            data, inexact = checkpoint.read_q4_0("a.weight", start, stop)
            words, scales = parts["a.weight_packed"][start:stop], parts["a.weight_scale"][start:stop]
            expected, count = repacked(Int4Weights(words, scales))
            assert np.array_equal(data, expected.view(-1).numpy())
            assert inexact == count == checkpoint.inexact_scales("a.weight", start, stop)
            assert (count > 0) == (stop > start)


def test_only_int4_tensors_are_repacked(tmp_path: Path) -> None:
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": {"a": torch.ones(2, 32)}}, {})) as checkpoint:
        for ask in (checkpoint.read_q4_0, checkpoint.inexact_scales):
            with pytest.raises(CheckpointError, match="is stored as F32, not as INT4"):
                ask("a", 0, 2)


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    parts = int4_triple("a")
    parts["a.weight_scale"][3, 1] = float("nan")
    with Checkpoint.open(write_folder(tmp_path, {"x.safetensors": parts}, INT4_CONFIG)) as checkpoint:
        for ask in (checkpoint.read_q4_0, checkpoint.inexact_scales):
            with pytest.raises(CheckpointError, match=r"tensor a.weight .* 1 scales .* first at \[3, 1\]"):
                ask("a.weight", 1, 4)


def test_counts_of_many_threads_add_up_and_a_part_counts_once() -> None:
    counts = InexactScales()

    def note(part: int) -> None:
        for _ in range(50):
            counts.record("a", part, part)
        counts.record("clean", part, 0)

    threads = [threading.Thread(target=note, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.totals() == {"a": sum(range(8))}
    assert counts.has("a", 7) and counts.has("clean", 0) and not counts.has("a", 8) and not counts.has("b", 0)
