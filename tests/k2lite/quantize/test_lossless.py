"""INT4 checkpoints become files without losing a bit: from the folder through the whole job to the finished file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from k2lite.quantize.source import open_source
from quant.encode.decode import dequantize
from quant.encode.encode import encode
from quant.gguf.gguf_file import GgufFile
from quant.types import block_type
from tests.tiny import TinyCheckpoint, build

LAYER = 1


def adversarial(tiny: TinyCheckpoint) -> TinyCheckpoint:
    """Give one layer all sixteen levels, and scales at the edges of what float16 holds exactly."""
    edges = [2.0**-17, 2.0**-24, 65280.0, -65280.0, 0.0, -0.0, -0.00202941894, 2.0**-14 * (1 + 2**-7), 1.0]
    random = np.random.default_rng(0)
    for name, words in tiny.shards[LAYER].items():
        if not name.endswith(".weight_packed"):
            continue
        levels = random.integers(0, 2**32, tuple(words.shape), dtype=np.uint32)
        words.copy_(torch.from_numpy(levels.view(np.int32)))
        scales = tiny.shards[LAYER][name.replace("_packed", "_scale")]
        scales.copy_(torch.tensor(random.choice(edges, tuple(scales.shape))).bfloat16())
    return tiny


def expert_weights(tiny: TinyCheckpoint, name: str) -> torch.Tensor:
    """What the words and scales stand for, worked out from the definition and not by the code under test."""
    module = f"{tiny.family.prefix}model.layers.{LAYER}.mlp.experts.{name}_proj.weight"
    words = tiny.shards[LAYER][f"{module}_packed"].numpy().view(np.uint32)
    levels = np.stack([(words >> np.uint32(4 * i)) & 15 for i in range(8)], -1).reshape(len(words), -1)
    scales = tiny.shards[LAYER][f"{module}_scale"].float().numpy()
    return torch.from_numpy((levels.astype(np.float32) - 8) * scales.repeat(32, axis=1))


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.int32)


@pytest.mark.parametrize("family", ["k2-thinking", "k2.5"])
@pytest.mark.parametrize(("recipe", "rest"), [("INT4", "Q8_0"), ("LOSSLESS", "BF16")])
def test_every_expert_weight_keeps_its_bits_and_the_rest_its_precision(
    tmp_path: Path, family: str, recipe: str, rest: str
) -> None:
    tiny = adversarial(build(family, experts=8, expert_width=128))
    quantize(tiny.write(tmp_path / family), tmp_path / "out.gguf", QuantizeOptions(recipe), threads=2)
    with GgufFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["general.file_type"] == 2
        for part in ("gate", "up", "down"):
            tensor = file.tensor(f"blk.{LAYER}.ffn_{part}_exps.weight")
            assert tensor.type.name == "Q4_0"
            values = dequantize(tensor)
            for expert in range(8):
                assert torch.equal(bits(values[expert]), bits(expert_weights(tiny, f"{expert}.{part}")))
        for name, stored in (("attn_output", "self_attn.o_proj"), ("ffn_up_shexp", "mlp.shared_experts.up_proj")):
            tensor = file.tensor(f"blk.{LAYER}.{name}.weight")
            exact = tiny.state[f"model.layers.{LAYER}.{stored}.weight"]
            assert tensor.type.name == rest
            assert np.array_equal(tensor.data, encode(exact, block_type(rest)))
        assert {file.tensor(f"blk.0.attn_{half}_b.weight").type.name for half in "kv"} == {rest}
        router = dequantize(file.tensor(f"blk.{LAYER}.ffn_gate_inp.weight"))
        assert torch.equal(router, tiny.state[f"model.layers.{LAYER}.mlp.gate.weight"])


def test_scales_that_float16_rounds_are_counted_and_everything_else_stays_exact(tmp_path: Path) -> None:
    tiny = build("k2.5", experts=8, expert_width=128)
    module = f"language_model.model.layers.{LAYER}.mlp.experts.5.down_proj.weight"
    tiny.shards[LAYER][f"{module}_scale"][3, 1] = 2.0**-20 * (1 + 2**-7)
    folder = tiny.write(tmp_path / "k2.5")
    quantize(folder, tmp_path / "out.gguf", QuantizeOptions("INT4"), threads=1)
    with GgufFile.open(tmp_path / "out.gguf") as file:
        values = dequantize(file.tensor(f"blk.{LAYER}.ffn_down_exps.weight"))[5]
        exact = expert_weights(tiny, "5.down")
        wrong = torch.nonzero(values != exact)
        assert len(wrong) and bool((wrong[:, 0] == 3).all()) and bool((wrong[:, 1] // 32 == 1).all())
        written = [name for name, info in file.tensors.items() if info.type.name == "Q4_0"]
    with open_source(folder) as source:
        assert source.count_inexact_scales(written) == {f"blk.{LAYER}.ffn_down_exps.weight": 1}
