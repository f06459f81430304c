"""The groups by which K2_4 was chosen cover the model, and their sizes are those of the files."""

import pytest

from benchmarks.recipe_choice import candidates, groups
from k2lite.config_json import config_from_json
from k2lite.synth.families import shape_named
from k2lite.tensor_layout import tensor_layouts
from quant.gguf.gguf_writer import TensorSpec
from quant.recipe.recipe import plan_types
from quant.recipe.rules import stays_f32


@pytest.mark.parametrize("family", ["k2", "moonlight"])
def test_every_matrix_is_in_exactly_one_group(family: str) -> None:
    config = config_from_json(shape_named(family).config)
    tensors = [(layout.name, layout.shape) for layout in tensor_layouts(config)]
    grouped = [name for group in groups(config) for name, _ in group.of(tensors)]
    assert sorted(grouped) == sorted(name for name, shape in tensors if not stays_f32(name, shape))


def test_the_bytes_of_all_groups_are_those_of_a_file_of_one_type() -> None:
    config = config_from_json(shape_named("k2").config)
    tensors = [(layout.name, layout.shape) for layout in tensor_layouts(config)]
    types = plan_types(tensors, candidates()["all Q4_K"])
    specs = [TensorSpec(name, kind, shape) for (name, shape), kind in zip(tensors, types, strict=True)]
    assert sum(group.nbytes(tensors, "Q4_K") for group in groups(config)) == sum(
        spec.nbytes for spec in specs if not stays_f32(spec.name, spec.shape)
    )
