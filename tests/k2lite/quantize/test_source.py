"""What the quantizer learns from a source before it reads a weight, and how a changed source is told."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from k2lite.quantize.source import open_source, plan_source
from quant.errors import CheckpointError, UnsupportedError
from tests.tiny import build
from tests.tiny_families import FAMILIES

STORAGES = {"FP8": {"FP8", "BF16", "F32"}, "INT4": {"INT4", "BF16", "F32"}, "BF16": {"BF16"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every family."""
    root = tmp_path_factory.mktemp("families")
    return {family: build(family, experts=8, expert_width=128).write(root / family) for family in FAMILIES}


@pytest.fixture
def k2(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folders["k2"], tmp_path / "k2"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_says_how_it_is_stored_and_which_recipe_suits_it(folders: dict[str, Path], family: str) -> None:
    with open_source(folders[family]) as source:
        assert source.complete and source.path == folders[family]
        assert source.default_recipe == ("INT4" if FAMILIES[family].storage == "INT4" else "Q4_K_M")
        assert set(source.storages) == STORAGES[FAMILIES[family].storage]
        assert source.n_layers == source.config.n_layers == (5 if family == "deepseek-v3" else 3)
        assert source.stored_bytes == sum(total.nbytes for total in source.storages.values())
        weights = sum(total.weights for total in source.storages.values())
        assert weights == sum(tensor.weights for tensor in source.tensors)
        vision, prediction = family == "k2.5", family == "deepseek-v3"
        assert [("vision" in note, "prediction" in note) for note in source.notes] == [(vision, prediction)] * (
            vision or prediction
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_metadata_names_the_model_and_holds_its_tokenizer(folders: dict[str, Path], family: str) -> None:
    with open_source(folders[family]) as source:
        keys = {entry.key: entry.value for entry in source.metadata(None, 15)}
        assert keys["general.name"] == family and keys["general.file_type"] == 15
        assert keys["general.architecture"] == "deepseek2"
        assert len(keys["tokenizer.ggml.tokens"]) == source.config.vocab_size
        assert {entry.key: entry.value for entry in source.metadata("other", 7)}["general.name"] == "other"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_from_the_config_alone_has_the_same_tensors(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    folder = tmp_path / family
    folder.mkdir()
    shutil.copy(folders[family] / "config.json", folder)
    with open_source(folders[family]) as source, plan_source(folder) as plan:
        assert [(tensor.name, tensor.shape) for tensor in plan.tensors] == [
            (tensor.name, tensor.shape) for tensor in source.tensors
        ]
        assert (plan.complete, plan.default_recipe, plan.n_layers) == (False, source.default_recipe, source.n_layers)
        assert "config.json alone" in plan.notes[0] and "tokenizer" in plan.notes[1]
        if FAMILIES[family].bias_dtype == torch.float32:
            for storage, total in plan.storages.items():
                expected = source.storages[storage]
                assert (total.tensors, total.weights) == (expected.tensors, expected.weights)
                assert total.nbytes == pytest.approx(expected.nbytes, rel=0.01)
        assert plan.stored_bytes == pytest.approx(source.stored_bytes, rel=0.01)
        assert {"general.name", "deepseek2.block_count"} <= {entry.key for entry in plan.metadata(None, 15)}
        with pytest.raises(CheckpointError, match=r"weights of token_embd\.weight are not here: .* no \.safetensors"):
            plan.tensors[0].read(0)


def test_a_plan_with_all_weights_is_the_source_itself(folders: dict[str, Path]) -> None:
    with plan_source(folders["k2"]) as plan:
        assert plan.complete and plan.tensors[0].read(0).shape == plan.tensors[0].shape


def test_a_plan_of_half_a_download_says_what_is_missing(k2: Path) -> None:
    shard = sorted(k2.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        open_source(k2)
    with plan_source(k2) as plan:
        assert not plan.complete and shard.name in plan.notes[0]
        assert "tokenizer.ggml.tokens" in {entry.key for entry in plan.metadata(None, 15)}
        assert [note for note in plan.notes if "tokenizer" in note] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "cannot read .*config.json"),
        (shutil.rmtree, "k2 is neither a checkpoint folder nor a GGUF file"),
    ],
)
def test_nothing_can_be_planned_without_a_config(k2: Path, change: Callable[[Path], None], message: str) -> None:
    change(k2)
    with pytest.raises(CheckpointError, match=message):
        plan_source(k2)


def test_a_plan_refuses_what_the_config_asks_for_and_k2lite_lacks(k2: Path) -> None:
    config = json.loads((k2 / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (k2 / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="gptq"):
        plan_source(k2)


def test_the_published_configs_give_the_published_sizes(shared_data: Path, tmp_path: Path) -> None:
    sizes = {"kimi-k2-instruct": 1029e9, "kimi-k2-thinking": 594.2e9, "moonlight-16b-a3b": 31.9e9}
    for name, nbytes in sizes.items():
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(shared_data / "kimi" / "configs" / f"{name}.json", folder / "config.json")
        with plan_source(folder) as plan:
            assert plan.stored_bytes == pytest.approx(nbytes, rel=0.002)


def _bytes_changed(path: Path) -> None:
    """Other content of the same length, written at the same time as before."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_changed_file_is_named_by_the_fingerprint_and_an_untouched_copy_has_the_same(k2: Path) -> None:
    def fingerprint() -> dict[str, str]:
        with open_source(k2) as source:
            return source.fingerprint()

    before = fingerprint()
    shards = {path.name for path in k2.glob("*.safetensors")}
    small = {"config.json", "generation_config.json", "tokenizer_config.json", "tiktoken.model", "chat_template.jinja"}
    assert shards <= set(before) <= shards | small and {"config.json", "tiktoken.model"} <= set(before)
    copied = k2.rename(k2.with_name("elsewhere"))
    shutil.copytree(copied, k2)
    assert fingerprint() == before
    for name in ("tiktoken.model", "generation_config.json"):
        _bytes_changed(k2 / name) if name != "generation_config.json" else (k2 / name).write_text("{}")
        after = fingerprint()
        assert [key for key in before if before[key] != after[key]] == [name]
        shutil.copy2(copied / name, k2 / name)
    shard = min(shards)
    os.utime(k2 / shard, ns=(5, 5))
    after = fingerprint()
    assert [key for key in before if before[key] != after[key]] == [shard]
    (k2 / "chat_template.jinja").write_text("other")
    assert "chat_template.jinja" in fingerprint()


def test_a_source_stays_readable_when_its_files_are_deleted(k2: Path) -> None:
    with open_source(k2) as source:
        shutil.rmtree(k2)
        for tensor in source.tensors[:3]:
            assert tensor.read(0).isfinite().all()


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the list of open files in /proc")
def test_files_are_closed_at_the_end_and_after_a_refusal(k2: Path) -> None:
    before = _open_files()
    with open_source(k2):
        assert _open_files() > before
    assert _open_files() == before
    config = json.loads((k2 / "config.json").read_text()) | {"n_routed_experts": 9}
    (k2 / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        open_source(k2)
    assert _open_files() == before
