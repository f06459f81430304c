"""A checkpoint as the tensors of the file to be: their values by parts, and bytes where nothing is rounded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import k2lite.model_checkpoint
from k2lite.model_checkpoint import ModelCheckpoint
from quant.checkpoint.checkpoint import Checkpoint
from quant.convert.source_tensor import SourceTensor
from quant.encode.decode import dequantize
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.tiny import TinyCheckpoint, build
from tests.tiny_families import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelCheckpoint]:
    folder = build(request.param, experts=8, expert_width=128).write(tmp_path_factory.mktemp(request.param))
    with Checkpoint.open(folder) as checkpoint:
        yield ModelCheckpoint.of(checkpoint)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that tiny matrices are cut."""
    monkeypatch.setattr(
        k2lite.model_checkpoint, "rows_in_part", lambda rows, cols: 128 if rows > 128 else rows
    )


def values_of(source: SourceTensor) -> torch.Tensor:
    return torch.cat([source.read_rows(part) for part in range(source.parts)]).view(source.shape)


def test_parts_put_together_are_the_whole_tensors(model: ModelCheckpoint, small_parts: None) -> None:
    checkpoint, config = model.checkpoint, model.config
    sources = {source.name: source for source in model.sources()}
    embedding = sources["token_embd.weight"]
    assert embedding.part_rows == 128 and embedding.parts == -(-config.vocab_size // 128)
    assert torch.equal(values_of(embedding), checkpoint.read("model.embed_tokens.weight"))
    for name, stored in (("attn_output", "self_attn.o_proj"), ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa")):
        whole = checkpoint.read(f"model.layers.0.{stored}.weight")
        assert torch.equal(values_of(sources[f"blk.0.{name}.weight"]), whole)
    layer = config.n_dense_layers
    experts = sources[f"blk.{layer}.ffn_down_exps.weight"]
    assert experts.parts == config.n_experts and experts.part_rows == config.hidden_size
    stack = [checkpoint.read(f"model.layers.{layer}.mlp.experts.{e}.down_proj.weight") for e in range(experts.parts)]
    assert torch.equal(values_of(experts), torch.stack(stack))
    heads = checkpoint.read("model.layers.0.self_attn.kv_b_proj.weight").view(config.n_heads, -1, config.kv_lora_rank)
    assert torch.equal(values_of(sources["blk.0.attn_k_b.weight"]), heads[:, : config.qk_nope_dim].transpose(1, 2))
    assert torch.equal(values_of(sources["blk.0.attn_v_b.weight"]), heads[:, config.qk_nope_dim :])


def test_exact_bytes_hold_the_values_that_are_read(model: ModelCheckpoint, small_parts: None) -> None:
    offered = set()
    for source in model.sources():
        for name in source.exact:
            kind = block_type(name)
            for part in range(source.parts):
                values = source.read_rows(part)
                data = source.read_exact(part, name, kind.row_bytes(source.cols)).reshape(-1)
                decoded = dequantize(QuantizedTensor(kind, tuple(values.shape), data))
                assert torch.equal(decoded.view(torch.int32), values.view(torch.int32)), source.name
            offered.add(name)
    storages = {model.checkpoint.storage(name) for name in model.stored_names()}
    assert offered == {"Q4_0" if storage == "INT4" else storage for storage in storages - {"FP8"}}


def test_what_is_transformed_or_stored_in_several_ways_is_not_offered(tmp_path: Path) -> None:
    tiny = build("k2-thinking", experts=8, expert_width=128)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    for suffix in ("_packed", "_scale", "_shape"):
        del tiny.shards[1][name + suffix]
    tiny.shards[1][name] = tiny.state[name].bfloat16()
    with Checkpoint.open(tiny.write(tmp_path)) as checkpoint:
        exact = {source.name: set(source.exact) for source in ModelCheckpoint.of(checkpoint).sources()}
    for name in ("blk.1.ffn_up_exps.weight", "blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"):
        assert exact[name] == set()
    assert exact["blk.1.ffn_down_exps.weight"] == {"Q4_0"} and exact["blk.0.attn_output.weight"] == {"BF16"}


@pytest.fixture
def rounded(tmp_path: Path) -> Iterator[ModelCheckpoint]:
    """A model with three scales that float16 cannot hold, in two of its tensors."""
    with Checkpoint.open(_with_tiny_scales(build("k2.5", experts=8, expert_width=128)).write(tmp_path)) as checkpoint:
        yield ModelCheckpoint.of(checkpoint)


def _with_tiny_scales(tiny: TinyCheckpoint) -> TinyCheckpoint:
    prefix = "language_model.model.layers.1.mlp.experts."
    tiny.shards[1][f"{prefix}3.up_proj.weight_scale"][5, 2] = 2.0**-20 * (1 + 2**-7)
    tiny.shards[1][f"{prefix}4.up_proj.weight_scale"][0, :1] = -(2.0**-25)
    tiny.shards[1][f"{prefix}7.down_proj.weight_scale"][9, 1] = 2.0**-30
    return tiny


def test_scales_that_float16_rounds_are_counted_by_tensor(rounded: ModelCheckpoint) -> None:
    experts = [source for source in rounded.sources() if "Q4_0" in source.exact]
    assert rounded.inexact_scales.totals() == {}
    for _ in range(2):  # reading again, as verification does, does not count again
        for source in experts:
            for part in range(source.parts):
                source.exact["Q4_0"](part)
    assert rounded.inexact_scales.totals() == {"blk.1.ffn_up_exps.weight": 2, "blk.1.ffn_down_exps.weight": 1}


def test_scales_of_parts_that_another_run_wrote_are_counted_from_the_source(rounded: ModelCheckpoint) -> None:
    sources = {source.name: source for source in rounded.sources()}
    sources["blk.1.ffn_up_exps.weight"].exact["Q4_0"](3)
    assert rounded.inexact_scales.totals() == {"blk.1.ffn_up_exps.weight": 1}
    names = ["blk.1.ffn_up_exps.weight", "blk.2.ffn_up_exps.weight", "output.weight"]
    assert rounded.count_inexact_scales(names) == {"blk.1.ffn_up_exps.weight": 2}
    assert rounded.count_inexact_scales([*sources]) == {"blk.1.ffn_up_exps.weight": 2, "blk.1.ffn_down_exps.weight": 1}
