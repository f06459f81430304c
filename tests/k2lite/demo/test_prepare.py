"""The demo model is quantized once, whole or not at all, whoever else is starting."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from k2lite.demo.prepare import content_hash, prepare_demo_model
from k2lite.events import LoadProgress
from quant.errors import CheckpointError, OutputError
from quant.gguf.gguf_file import GgufFile
from tests.tiny import write_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("demo") / "model", "k2", layers=2)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def ignore(progress: LoadProgress) -> None:
    """Progress that a test does not look at."""


def test_the_first_start_quantizes_and_shows_it(source: Path, tmp_path: Path) -> None:
    seen: list[LoadProgress] = []
    path = prepare_demo_model(seen.append, source, tmp_path / "new" / "cache")
    assert {progress.stage for progress in seen} == {"quantize"}
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert names(path.parent) == [path.name]
    with GgufFile.open(path) as file:
        assert file.tensors["blk.1.ffn_gate_exps.weight"].type.name == "Q4_K"
        assert file.metadata["general.name"] == "k2lite demo"


def test_the_second_start_finds_it(source: Path, tmp_path: Path) -> None:
    path = prepare_demo_model(ignore, source, tmp_path)
    written = path.stat().st_mtime_ns
    seen: list[LoadProgress] = []
    assert prepare_demo_model(seen.append, source, tmp_path) == path
    assert (seen, path.stat().st_mtime_ns) == ([], written)


def test_another_source_is_another_file(source: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(source, tmp_path / "changed")
    config = changed / "config.json"
    config.write_text(config.read_text() + "\n")
    assert content_hash(changed) != content_hash(source)
    renamed = shutil.copytree(source, tmp_path / "renamed")
    (renamed / "tokenizer_config.json").rename(renamed / "tokenizer.config")
    assert content_hash(renamed) != content_hash(source)


def test_two_starts_at_once_end_with_one_whole_file(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from k2lite.demo.prepare import prepare_demo_model\n"
        "print(prepare_demo_model(lambda progress: None, Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert names(tmp_path) == [Path(outputs[0]).name]
    GgufFile.open(Path(outputs[0])).close()


def test_a_failure_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(source, tmp_path / "broken")
    for shard in broken.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        prepare_demo_model(ignore, broken, tmp_path / "cache")
    assert names(tmp_path / "cache") == []


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="install k2lite again, or name a MODEL"):
        prepare_demo_model(ignore, tmp_path / "nothing", tmp_path)


def test_a_cache_that_cannot_be_written_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="K2LITE_HOME"):
        prepare_demo_model(ignore, source, tmp_path / "cache")
