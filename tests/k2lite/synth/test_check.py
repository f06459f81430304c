"""The look into a synthetic model before it is used."""

from pathlib import Path

import numpy as np
import pytest

from k2lite.synth import check as synth_check
from k2lite.synth import values as synth_values
from k2lite.synth.check import SyntheticModelError, check_synthetic
from quant.errors import K2Error
from quant.gguf.gguf_file import GgufFile
from tests.k2lite.synth_samples import families, write_tiny


@pytest.mark.parametrize("family", families("k2", "deepseek-v3"))
def test_a_good_model_is_finite_evenly_routed_and_runs(tmp_path: Path, family: str) -> None:
    check = check_synthetic(write_tiny(tmp_path / "out.gguf", family, recipe="F16"), threads=1)
    assert check.sampled_weights > 1_000_000
    assert len(check.routing) == (1 if family == "deepseek-v3" else 3)
    assert all(share.idlest > 0.7 and share.busiest < 1.35 for share in check.routing)
    assert check.forward_tokens > 0
    assert 1.5 < check.logit_std < 6


def damage(path: Path, tensor: str, values: bytes) -> None:
    """Put `values` at the beginning of a tensor of a GGUF file."""
    with GgufFile.open(path) as file:
        offset = file.tensors[tensor].offset_bytes
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(values)


def test_nan_is_found(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "out.gguf", recipe="F16")
    damage(path, "blk.2.ffn_down_exps.weight", np.full(4, np.nan, dtype=np.float16).tobytes())
    with pytest.raises(K2Error, match=r"blk\.2\.ffn_down_exps\.weight.* NaN"):
        check_synthetic(path, threads=1)


def test_a_matrix_of_zeros_is_found(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "out.gguf", recipe="F16")
    damage(path, "blk.2.attn_output.weight", bytes(2 * 256 * 128))
    with pytest.raises(SyntheticModelError, match=r"blk\.2\.attn_output\.weight .* standard deviation"):
        check_synthetic(path, threads=1)


def test_uneven_routing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_values, "_BIAS_STD", 0.5)
    path = write_tiny(tmp_path / "out.gguf", recipe="F16")
    with pytest.raises(SyntheticModelError, match=r"busiest expert of layer 1 .* times the mean"):
        check_synthetic(path, threads=1)


def test_a_model_too_large_for_a_forward_pass_is_checked_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth_check, "_FORWARD_BYTES", 1000)
    check = check_synthetic(write_tiny(tmp_path / "out"), threads=1)
    assert (check.forward_tokens, check.logit_std) == (0, 0.0)
    assert check.routing
