"""The card kernels without a card: in Triton's interpreter, and compiled for cards that are not there."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.quant.kernels.card_samples import BFLOAT16_ERROR, EXPERT_ERROR, FLOAT32_ERROR, TYPES

ROOT = Path(__file__).resolve().parents[3]
MANY_TOKENS = ("many", "heads 9", "all slots 10")  # by tensor cores, from numbers of 16 bits
CASES = 40

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def output_of(module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.quant.kernels.{module}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    return output_of("interpreted_kernels")


def tolerance(case: str) -> float:
    if case.startswith("rows"):
        return 1e-6
    one = BFLOAT16_ERROR if case.startswith(MANY_TOKENS) else FLOAT32_ERROR
    return one * (EXPERT_ERROR if "experts" in case or "slots" in case else 1)


@pytest.mark.slow
def test_interpreted_kernels_agree_with_the_oracle(errors: dict[str, float]) -> None:
    wrong = {case: error for case, error in errors.items() if not error < tolerance(case)}
    assert not wrong
    assert len(errors) >= CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_looked_at(errors: dict[str, float], name: str) -> None:
    assert 0 < errors[f"linear {name} 1"] < FLOAT32_ERROR
    assert 0 < errors[f"many {name}"] < BFLOAT16_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "89", "90"])
def test_kernels_compile_and_stay_in_registers(capability: str) -> None:
    """Nothing spills, and the matrix-vector kernels move no value between threads before the last sum."""
    found = output_of("compiled_kernels", capability)
    assert not {name: use for name, use in found.items() if use["stack_bytes"]}
    vectors = {name: use for name, use in found.items() if name.split()[-1] in TYPES and "expand" not in name}
    assert len(vectors) == 3 * len(TYPES)
    one_warp = {name: use for name, use in vectors.items() if use["warps"] == 1}
    assert len(one_warp) > 2 * len(TYPES)
    assert not {name: use for name, use in one_warp.items() if use["shared_instructions"]}
    matrices = {name: use for name, use in found.items() if name.split()[-1].isdigit()}
    assert len(matrices) == 6
    assert all(use["matrix_instructions"] for use in matrices.values())
