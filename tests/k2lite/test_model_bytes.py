"""A model's bytes: the same from a plan of a file as from the file, and K2's own published sums."""

from pathlib import Path

import pytest

from k2lite.bench.token_bytes import weight_bytes_per_token
from k2lite.config_gguf import config_from_gguf
from k2lite.model_bytes import model_bytes_of_config, model_bytes_of_file
from k2lite.plan_model import model_named
from quant.errors import RequestError
from quant.gguf.gguf_file import GgufFile
from quant.recipe.recipe import recipe_named
from tests.tiny import write_checkpoint


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from k2lite.cli.main import main

    folder = tmp_path_factory.mktemp("bytes")
    path = folder / "small.gguf"
    shape = ("--shape", "k2", "--layers", "3", "--hidden", "256", "--expert-width", "256", "--dense-width", "512")
    size = ("--experts", "16", "--vocab", "4096", "--type", "Q4_K_M", "--no-check")
    assert main(["synth", str(path), *shape, *size]) == 0
    return path


def test_a_file_and_the_plan_of_it_agree(file: Path) -> None:
    with GgufFile.open(file) as opened:
        config = config_from_gguf(opened.metadata)
    found, planned = model_bytes_of_file(file), model_bytes_of_config(config, recipe_named("Q4_K_M"), "planned")
    assert found.layers == planned.layers
    assert (found.outer_bytes, found.embedding_bytes) == (planned.outer_bytes, planned.embedding_bytes)
    assert found.n_experts == 16
    assert [layer.expert > 0 for layer in found.layers] == [False, True, True]


def test_all_bytes_of_a_file_are_somewhere(file: Path) -> None:
    found = model_bytes_of_file(file)
    with GgufFile.open(file) as opened:
        assert found.total_bytes == sum(info.nbytes for info in opened.tensors.values())
        config = config_from_gguf(opened.metadata)
        per_token = weight_bytes_per_token(opened.tensors.values(), config)
    row = found.embedding_bytes // config.vocab_size
    assert found.resident_bytes + found.routed_bytes_per_token + row == per_token


def test_kimi_k2_has_its_published_sizes() -> None:
    k2 = model_named("k2", None)
    assert k2.expert_count == 23_040
    assert k2.total_bytes / 2**30 == pytest.approx(577.9, abs=0.1)
    assert k2.resident_weights == pytest.approx(10.55e9, rel=0.001)
    assert k2.expert_weights == 44_040_192
    thinking = model_named("k2-thinking", None)
    assert thinking.mean_expert_bytes == 24_772_608
    assert thinking.routed_bytes_per_token == pytest.approx(11.89e9, rel=0.001)


@pytest.mark.parametrize("name", ["deepseek-v3", "moonlight", "v2-lite"])
def test_families_are_known_before_anything_is_downloaded(name: str) -> None:
    assert model_named(name, "Q3_K_M").total_bytes < model_named(name, "Q8_0").total_bytes


def test_a_config_is_enough(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", "k2")
    assert model_named(str(folder), "Q8_0") == model_named(str(folder / "config.json"), "Q8_0")


def test_a_file_keeps_its_types(file: Path) -> None:
    with pytest.raises(RequestError, match="leave out --type"):
        model_named(str(file), "Q8_0")


def test_what_is_neither_a_file_nor_a_family_lists_the_families() -> None:
    with pytest.raises(RequestError, match=r"known are k2, k2-thinking.*v2-lite"):
        model_named("kimi-k9", None)
