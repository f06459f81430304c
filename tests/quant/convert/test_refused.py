"""What is there is of other work, or damaged, or somebody else is at it: refused with the way out."""

from dataclasses import replace
from pathlib import Path

import pytest

from quant.convert import commit as convert_commit
from quant.convert.journal import Journal
from quant.convert.resume import new_digest
from quant.errors import OutputError
from tests.quant.convert_samples import sample_job
from tests.quant.interrupted import finish, interrupt, journal_of, part_of, uninterrupted


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted run writes."""
    return uninterrupted(tmp_path_factory.mktemp("expected"))


def test_other_options_are_named_and_refused(tmp_path: Path) -> None:
    job = sample_job(tmp_path / "a.gguf")
    job = replace(job, fingerprint={"type": "Q4_K_M", "model-00001.safetensors": "1" * 64, "imatrix": "a.dat"})
    interrupt(job)
    before = part_of(job).read_bytes()
    other = {"type": "Q8_0", "model-00001.safetensors": "2" * 64, "encoder": "ggml 1"}
    with pytest.raises(OutputError) as caught:
        finish(replace(job, fingerprint=other))
    message = str(caught.value)
    assert "type is Q8_0 now, Q4_K_M before" in message
    assert "model-00001.safetensors is not what it was" in message
    assert "imatrix is missing now" in message and "encoder was not there before" in message
    assert "Run the command as before to go on, or start again with --restart" in message
    assert part_of(job).read_bytes() == before
    assert finish(job).work.resumed_bytes > 0


def test_another_layout_is_refused(tmp_path: Path) -> None:
    interrupt(sample_job(tmp_path / "a.gguf"))
    with pytest.raises(OutputError, match="not laid out as before"):
        finish(sample_job(tmp_path / "a.gguf", types={"output.weight": "Q8_0"}))


def test_restart_gives_up_what_was_written(tmp_path: Path, expected: bytes) -> None:
    interrupt(sample_job(tmp_path / "a.gguf", types={"": "F32"}))
    job = replace(sample_job(tmp_path / "a.gguf"), fingerprint={"type": "another"})
    assert finish(job, restart=True).work.resumed_bytes == 0
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_restart_removes_shards_of_another_size(tmp_path: Path, expected: bytes) -> None:
    interrupt(sample_job(tmp_path / "a.gguf", shard_bytes=450_000), "output_norm.weight")
    assert len(list(tmp_path.glob("*.part"))) > 1
    finish(sample_job(tmp_path / "a.gguf"), restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("name", ["../precious.part", "/precious.part", "precious", "sub/precious.part"])
def test_a_journal_cannot_have_other_files_removed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    precious = folder / name
    precious = tmp_path / "precious.part" if name.startswith("/") else precious
    precious.write_text("precious")
    listed = str(precious) if name.startswith("/") else name
    convert_commit.discard_foreign_parts(sample_job(folder / "a.gguf").layout, [listed])
    assert precious.read_text() == "precious"


def test_a_damaged_journal_is_refused_and_restart_helps(tmp_path: Path, expected: bytes) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    data = bytearray(job.layout.journal_path.read_bytes())
    data[data.index(b"\n") + 20] ^= 1
    job.layout.journal_path.write_bytes(data)
    with pytest.raises(OutputError, match="damaged at line 2"):
        finish(job)
    finish(job, restart=True)
    assert (tmp_path / "a.gguf").read_bytes() == expected


def test_a_stretch_that_ends_within_a_row_is_refused(tmp_path: Path) -> None:
    job = sample_job(tmp_path / "a.gguf")
    interrupt(job)
    content = journal_of(job)
    journal = Journal(job.layout.journal_path)
    journal.keep(content.ends[1])
    last = content.stretches[1]
    data = part_of(job).read_bytes()
    end = last.end + 7
    digest = new_digest()
    digest.update(data[last.end : end])
    journal.append([replace(last, start=last.end, end=end, digest=digest.hexdigest())])
    journal.close()
    with pytest.raises(OutputError, match="within a row"):
        finish(job)


def test_two_jobs_on_one_output_do_not_meet(tmp_path: Path) -> None:
    job, refused = sample_job(tmp_path / "a.gguf"), []

    def second(state: object) -> None:
        if not refused:
            with pytest.raises(OutputError, match=r"another process is writing a\.gguf") as caught:
                finish(job)
            refused.append(caught.value)

    finish(job, progress=second)
    assert refused


