"""What an importance matrix is good for, on the demo model: half of its text to learn from, half to be judged by."""

from pathlib import Path

import pytest

from k2lite.cli.main import main
from k2lite.demo.prepare import demo_eval_text, demo_source
from k2lite.evaluate import evaluate
from k2lite.imatrix import ImatrixJob, collect_imatrix
from k2lite.load import load_model
from quant.gguf.gguf_file import GgufFile
from quant.imatrix.imatrix import Imatrix


def divergence(file: Path, text: str) -> float:
    """Mean KL divergence from the source in nats."""
    model, reference = load_model(file), load_model(demo_source())
    try:
        result = evaluate(model, text, window_tokens=512, reference=reference, max_tokens=2048)
    finally:
        model.close()
        reference.close()
    assert result.mean_kl is not None
    return result.mean_kl


@pytest.mark.slow
def test_two_bits_are_much_better_with_importance(tmp_path: Path) -> None:
    text = demo_eval_text().read_text(encoding="utf-8")
    learned, judged = text[: len(text) // 2], text[len(text) // 2 :]
    collect_imatrix(ImatrixJob(demo_source(), learned, "half", tmp_path / "im.gguf"))
    options = ("--type", "Q2_K", "--no-verify")
    assert main(["quantize", str(demo_source()), str(tmp_path / "plain.gguf"), *options]) == 0
    with_importance = (*options, "--imatrix", str(tmp_path / "im.gguf"))
    assert main(["quantize", str(demo_source()), str(tmp_path / "weighted.gguf"), *with_importance]) == 0
    assert divergence(tmp_path / "weighted.gguf", judged) < 0.75 * divergence(tmp_path / "plain.gguf", judged)
    with GgufFile.open(tmp_path / "weighted.gguf") as file, Imatrix.open(tmp_path / "im.gguf") as imatrix:
        assert file.metadata["quantize.imatrix.dataset"] == "half"
        assert file.metadata["quantize.imatrix.entries_count"] == len(imatrix.names)
        assert file.metadata["quantize.imatrix.chunks_count"] == imatrix.header.chunk_count > 3
        # Three-dimensional weights and plain ones, heads too: all that the file quantizes is covered.
        plain = [name for name, info in file.tensors.items() if info.type.name != "F32" and "blk." in name]
        assert [name for name in plain if not imatrix.covers(name)] == []
