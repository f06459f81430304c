"""llama.cpp's own quantizer as the second opinion: the same model gives the same types, and with the same encoders the
same bytes."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConvertJob, PlannedTensor
from quant.convert.source_tensor import SourceTensor
from quant.encode.encode import encode
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec
from quant.recipe.recipe import plan_types, recipe_named
from tests.quant.llama_quantizer import LLAMA_CPP_RECIPES, quantize

QUICK = ("BF16", "Q8_0", "Q4_K_M", "MXFP4")
# With an importance encoders take their time: a small model, and recipes that have all types of the others in them.
WITH_IMPORTANCE = ("Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_XXS", "IQ1_M")
LAYERS, FEW_LAYERS = 16, 8
HIDDEN, VOCAB, EXPERTS, WIDTH = 256, 64, 4, 96

CONFIG = {
    "context_length": 128,
    "embedding_length": HIDDEN,
    "feed_forward_length": 320,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 256,
    "attention.key_length": 288,
    "attention.value_length": 256,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 32,
    "rope.dimension_count": 32,
    "leading_dense_block_count": 1,
    "vocab_size": VOCAB,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_shared_count": 1,
    "expert_feed_forward_length": WIDTH,
    "expert_gating_func": 2,
}


ATTENTION = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q_a.weight": (64, HIDDEN),
    "attn_q_a_norm.weight": (64,),
    "attn_q_b.weight": (128, 64),
    "attn_kv_a_mqa.weight": (288, HIDDEN),
    "attn_kv_a_norm.weight": (256,),
    "attn_k_b.weight": (2, 256, 32),
    "attn_v_b.weight": (2, 32, 256),
    "attn_output.weight": (HIDDEN, 64),
    "ffn_norm.weight": (HIDDEN,),
}
DENSE = {"ffn_gate.weight": (320, HIDDEN), "ffn_up.weight": (320, HIDDEN), "ffn_down.weight": (HIDDEN, 320)}
MIXTURE = {
    "ffn_gate_inp.weight": (EXPERTS, HIDDEN),
    "exp_probs_b.bias": (EXPERTS,),
    "ffn_gate_exps.weight": (EXPERTS, WIDTH, HIDDEN),
    "ffn_down_exps.weight": (EXPERTS, HIDDEN, WIDTH),
    "ffn_up_exps.weight": (EXPERTS, WIDTH, HIDDEN),
    "ffn_gate_shexp.weight": (256, HIDDEN),
    "ffn_down_shexp.weight": (HIDDEN, 256),
    "ffn_up_shexp.weight": (256, HIDDEN),
}


@dataclass(frozen=True)
class RandomModel:
    """A model with rows of 256, 320, 96, 64 and 32 weights."""

    layers: int

    @property
    def metadata(self) -> list[MetadataEntry]:
        return [
            MetadataEntry("general.architecture", "string", "deepseek2"),
            MetadataEntry("deepseek2.block_count", "uint32", self.layers),
            *(MetadataEntry(f"deepseek2.{key}", "uint32", value) for key, value in CONFIG.items()),
            MetadataEntry("deepseek2.attention.layer_norm_rms_epsilon", "float32", 1e-6),
        ]

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and numpy shapes."""
        layers = [
            (f"blk.{layer}.{name}", shape)
            for layer in range(self.layers)
            for name, shape in {**ATTENTION, **(MIXTURE if layer else DENSE)}.items()
        ]
        ends = [("token_embd.weight", (VOCAB, HIDDEN)), ("output_norm.weight", (HIDDEN,))]
        return [*ends, ("output.weight", (VOCAB, HIDDEN)), *layers]

    def write(self, path: Path, recipe: str, imatrix: bool = False) -> Path:
        """Quantize with our converter and llama.cpp's encoders."""
        types = plan_types(self.shapes, recipe_named(recipe), imatrix=imatrix)
        specs = [TensorSpec(name, kind, shape) for (name, shape), kind in zip(self.shapes, types, strict=True)]
        encoder = functools.partial(encode, encoders="ggml")
        planned = [
            PlannedTensor(tensor_source(spec.name, spec.shape), BlockCodec(spec.type, encoder)) for spec in specs
        ]
        layout = gguf_layout(path, self.metadata, specs)
        convert(ConvertJob(tuple(planned), layout, importance=importance if imatrix else None), verify=False)
        return path


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    random = np.random.default_rng(list(name.encode()))
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32) / math.sqrt(shape[-1]))


def importance(name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Of each column of each slab; of nothing for the ends of the model, where nobody collects it."""
    if not name.startswith("blk."):
        return None
    random = np.random.default_rng([1, *name.encode()])
    slabs = shape[0] if len(shape) == 3 else 1
    return torch.from_numpy(random.uniform(0.1, 2, (slabs, shape[-1])).astype(np.float32))


def tensor_source(name: str, shape: tuple[int, ...]) -> SourceTensor:
    return SourceTensor(name, shape, math.prod(shape[:-1]), lambda part: values(name, shape))


def quantize_there(source: Path, path: Path, model: RandomModel, recipe: str, imatrix: bool) -> Path:
    known = [(name, importance(name, shape)) for name, shape in model.shapes] if imatrix else []
    entries = [(name, weights.numpy()) for name, weights in known if weights is not None]
    assert quantize(source, path, recipe_named(recipe).file_type, entries if imatrix else None) == 0
    return path


@pytest.fixture(scope="module")
def exact_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The models as F32, by the number of layers."""
    folder = tmp_path_factory.mktemp("peer")
    return {layers: RandomModel(layers).write(folder / f"{layers}.gguf", "F32") for layers in (LAYERS, FEW_LAYERS)}


def compare(exact_files: dict[int, Path], folder: Path, recipe: str, imatrix: bool) -> None:
    model = RandomModel(FEW_LAYERS if imatrix else LAYERS)
    ours = model.write(folder / "ours.gguf", recipe, imatrix)
    theirs = quantize_there(exact_files[model.layers], folder / "theirs.gguf", model, recipe, imatrix)
    with GgufFile.open(ours) as our_file, GgufFile.open(theirs) as their_file:
        assert their_file.metadata["general.file_type"] == recipe_named(recipe).file_type
        types = {name: info.type.name for name, info in their_file.tensors.items()}
        assert {name: info.type.name for name, info in our_file.tensors.items()} == types
        for name in types:
            assert np.array_equal(our_file.tensor(name).data, their_file.tensor(name).data), (name, types[name])


@pytest.mark.parametrize(
    "recipe",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in LLAMA_CPP_RECIPES
        if not name.startswith("IQ") or name in ("IQ4_XS", "IQ4_NL", "IQ3_S")
        if name != "Q2_K_S"
    ],
)
def test_llama_cpp_makes_the_same_file(exact_files: dict[int, Path], tmp_path: Path, recipe: str) -> None:
    compare(exact_files, tmp_path, recipe, imatrix=False)


@pytest.mark.parametrize("recipe", ["Q4_0", *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_IMPORTANCE)])
def test_llama_cpp_makes_the_same_file_with_an_importance(
    exact_files: dict[int, Path], tmp_path: Path, recipe: str
) -> None:
    compare(exact_files, tmp_path, recipe, imatrix=True)
