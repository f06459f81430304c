"""What a checkpoint states about sampling survives the conversion, and nonsense is refused by name."""

import json
from pathlib import Path

import pytest

from k2lite.events import Sampling
from k2lite.generation_config import read_stated_sampling, stated_sampling_of
from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.errors import CheckpointError, GgufError
from tests.k2lite.fakes import write_chat_checkpoint

STATED = {"temperature": 0.3, "top_p": 0.95, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1}


def write_config(folder: Path, **fields: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def loaded_sampling(path: Path) -> Sampling:
    loaded = load_model(path, kernels="reference", threads=1)
    loaded.close()
    return loaded.info.default_sampling


def test_a_folder_and_the_file_made_of_it_are_sampled_as_stated(tmp_path: Path) -> None:
    folder = write_config(write_chat_checkpoint(tmp_path / "k2"), eos_token_id=3, **STATED)
    quantize(folder, tmp_path / "k2.gguf", QuantizeOptions("Q8_0"), threads=1)
    expected = Sampling(temperature=0.3, top_p=0.95, top_k=40, min_p=0.01, repeat_penalty=1.1)
    assert (loaded_sampling(folder), loaded_sampling(tmp_path / "k2.gguf")) == (expected, expected)


def test_what_is_not_stated_is_left_to_the_family(tmp_path: Path) -> None:
    assert read_stated_sampling(tmp_path) == {}
    assert read_stated_sampling(write_config(tmp_path, top_k=None, max_length=4096)) == {}
    assert stated_sampling_of({"general.name": "k2"}) == {}


def test_a_negative_top_k_means_all_tokens(tmp_path: Path) -> None:
    assert read_stated_sampling(write_config(tmp_path, top_k=-1)) == {"top_k": 0}


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", "hot"), ("temperature", True), ("temperature", -1.0), ("top_k", 1.5)]
)
def test_a_value_that_cannot_be_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} is"):
        read_stated_sampling(write_config(tmp_path, **{key: value}))
    with pytest.raises(GgufError, match=rf"general\.sampling.*{key} is"):
        stated_sampling_of({"general.sampling." + key.replace("temperature", "temp"): value})
