"""Reading back: bytes that are not as they were written are found, and the stretch that they are in is named."""

from pathlib import Path

import pytest

from quant.convert.verify import verify
from tests.quant.verify_samples import flip, gguf_job, refusal, write


@pytest.mark.parametrize("block_bytes", [8 << 20, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_flipped_bit_is_found_in_its_stretch(
    tmp_path: Path, share: float, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant.convert.verify_files._BLOCK_BYTES", block_bytes)
    job = gguf_job(tmp_path)
    stretches = write(job)
    assert verify(job, stretches).stretches == len(stretches)
    offset = round(share * (job.layout.total_bytes - 1))
    flip(tmp_path / "out.gguf.part", offset)
    error = refusal(job, stretches)
    assert error.stretch is not None
    assert error.stretch.start <= offset < error.stretch.end
    assert f"bytes {error.stretch.start:,} to {error.stretch.end:,} of {tmp_path / 'out.gguf.part'}" in str(error)
    assert error.stretch.digest in str(error)
    assert "the drive or the memory may be failing. Run the same command again" in str(error)


def test_a_file_that_is_cut_off_or_too_long_is_found(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    stretches = write(job)
    path = tmp_path / "out.gguf.part"
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    assert f"has {len(content) + 1:,} bytes instead of {len(content):,}" in str(refusal(job, stretches))
    path.write_bytes(content[:10_000])
    error = refusal(job, stretches)
    assert "ends at byte 10,000, it is cut off" in str(error)
    assert error.stretch == stretches[1]
    path.unlink()
    assert "No such file" in str(refusal(job, stretches))


def test_bytes_without_a_digest_are_our_own_mistake(tmp_path: Path) -> None:
    job = gguf_job(tmp_path)
    stretches = write(job)
    for gap in (stretches[1:], stretches[:-1], stretches[:1] + stretches[2:]):
        with pytest.raises(ValueError, match="no digest is known for bytes"):
            verify(job, gap)
