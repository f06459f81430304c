"""The shapes of synthetic models."""

import json

import pytest

from k2lite.config_json import config_from_json
from k2lite.synth.families import published_shapes, shape_named
from k2lite.synth.shapes import Changes, changed, has_kimi_tokens, shape_of, text_config
from quant.checkpoint.weight_scheme import weight_scheme
from quant.errors import UnsupportedError

PUBLISHED = {
    "k2": "kimi-k2-instruct",
    "k2-thinking": "kimi-k2-thinking",
    "k2.5": "kimi-k2.5",
    "moonlight": "moonlight-16b-a3b",
    "deepseek-v3": "deepseek-v3",
    "deepseek-v2-lite": "deepseek-v2-lite",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_is_the_published_configuration(name, shared_data):
    real = json.loads((shared_data / "kimi" / "configs" / f"{PUBLISHED[name]}.json").read_text())
    shape = shape_named(name)
    ours = changed(shape.config, Changes(), shape.form)
    assert config_from_json(ours, "x") == config_from_json(real, "x")
    assert weight_scheme(ours) == weight_scheme(real)
    for place in ("bos_token_id", "eos_token_id", "pad_token_id", "architectures", "model_type"):
        assert ours.get(place) == real.get(place), place
    quantization = "quantization_config"
    assert text_config(ours).get(quantization) == text_config(real).get(quantization)


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(UnsupportedError, match=r"known are k2, k2-thinking"):
        shape_named("gpt-2")


@pytest.mark.parametrize("name", PUBLISHED)
def test_changes_reach_the_model(name):
    changes = Changes(layers=5, dense_layers=2, experts=32, experts_per_token=4, hidden=512, vocab=5000)
    shape = shape_named(name)
    model = config_from_json(changed(shape.config, changes, shape.form))
    assert (model.n_layers, model.n_dense_layers, model.n_experts, model.experts_per_token) == (5, 2, 32, 4)
    assert (model.hidden_size, model.vocab_size) == (512, 5000)
    assert shape_named(name).config == shape.config, "the shape itself stays as it is"


def test_special_tokens_of_kimi_stay_at_the_end_of_the_vocabulary():
    shape = shape_named("k2.5")
    config = changed(shape.config, Changes(vocab=1000), "int4")
    assert (config["bos_token_id"], config["pad_token_id"]) == (744, 999)
    assert config["text_config"]["eos_token_id"] == config["eos_token_id"] == 746


def test_special_tokens_of_deepseek_stay_below_the_vocabulary():
    v3 = changed(shape_named("deepseek-v3").config, Changes(vocab=1000), "fp8")
    v2 = changed(shape_named("deepseek-v2-lite").config, Changes(vocab=1000), "bf16")
    assert (v3["bos_token_id"], v3["eos_token_id"]) == (0, 1)
    assert (v2["bos_token_id"], v2["eos_token_id"]) == (996, 997)


@pytest.mark.parametrize(("form", "scheme"), [("bf16", "none"), ("fp8", "fp8"), ("int4", "int4")])
@pytest.mark.parametrize("name", ["k2", "k2.5"])
def test_the_form_is_declared(name, form, scheme):
    assert weight_scheme(changed(shape_named(name).config, Changes(), form)) == scheme


def test_layers_that_predict_several_tokens_are_taken_out():
    config = changed(shape_named("deepseek-v3").config | {"num_nextn_predict_layers": 1}, Changes(), "fp8")
    assert config["num_nextn_predict_layers"] == 0


def test_somebodys_own_config_tells_its_form():
    for name, shape in published_shapes().items():
        config = changed(shape.config, Changes(), shape.form)
        assert shape_of(config).form == shape.form, name


def test_whose_tokens_a_model_has():
    kimi = {name for name, shape in published_shapes().items() if has_kimi_tokens(shape.config)}
    assert kimi == {"k2", "k2-thinking", "k2.5", "moonlight"}
