"""The contract of card kernels: what they need, what they refuse, and the reference on tensors in RAM."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quant.errors import UnsupportedError
from quant.kernels.card import CardTensor, SlotTable, make_card_kernels, upload
from quant.types import block_type
from tests.quant.kernels.card_samples import Experts, random, relative_error, routed, sample
from tests.quant.random_weights import random_weights

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
NOT_NEEDED = "llama_cpp bitsandbytes accelerate transformers psutil textual rich tokenizers jinja2 platformdirs"


def test_the_kernels_need_torch_triton_numpy_safetensors_and_gguf_alone() -> None:
    pytest.importorskip("triton")
    code = (
        f"import sys\nfor name in {NOT_NEEDED.split()!r}: sys.modules[name] = None\n"
        "import quant.kernels.card, quant.kernels.card_reference, quant.kernels.triton.kernels, quant.checkpoint\n"
        "quant.kernels.card.make_card_kernels('triton')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_reference_multiplies() -> None:
    kernels = make_card_kernels("reference")
    w, exact = sample("Q4_K", (5, 256), CPU)
    x = random(3, 256, device=CPU)
    assert relative_error(kernels.linear(x, w), x.double() @ exact.T) < 1e-6
    several = Experts(("Q8_0", "Q4_0"), 32, 64, count=3, device=CPU)
    x = random(2, 64, device=CPU)
    slots, weights = routed([[2, -1], [0, 2]], CPU)
    assert relative_error(kernels.experts(x, several.table, slots, weights), several.exact(x, slots, weights)) < 1e-5


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnsupportedError, match="triton, reference"):
        make_card_kernels("cuda")


def test_what_does_not_fit_is_refused() -> None:
    kernels = make_card_kernels("reference")
    w, _ = sample("Q8_0", (5, 64), CPU)
    with pytest.raises(ValueError, match="rows of 64"):
        kernels.linear(random(1, 32, device=CPU), w)
    with pytest.raises(TypeError, match="float32 or bfloat16"):
        kernels.linear(random(1, 64, device=CPU).double(), w)
    several = Experts(("Q8_0", "Q8_0"), 32, 64, count=2, device=CPU)
    slots, weights = routed([[0, 1]], CPU)
    with pytest.raises(TypeError, match="slots are int32"):
        kernels.experts(random(1, 64, device=CPU), several.table, slots.long(), weights)
    with pytest.raises(ValueError, match="2 tokens"):
        kernels.experts(random(2, 64, device=CPU), several.table, slots, weights)


def test_bytes_must_be_aligned_and_complete() -> None:
    data = torch.zeros(68 + 32, dtype=torch.uint8)
    start = -data.data_ptr() % 32
    with pytest.raises(ValueError, match="multiple of 32"):
        CardTensor(block_type("Q8_0"), (1, 32), data[start + 2 : start + 36])
    with pytest.raises(ValueError, match="takes 68 bytes"):
        CardTensor(block_type("Q8_0"), (2, 32), data[start : start + 34])
    with pytest.raises(TypeError, match="int64"):
        SlotTable(data[start:], torch.zeros(1, 3), block_type("Q8_0"), block_type("Q8_0"), 32, 32)


def test_a_read_only_file_is_copied() -> None:
    weights = random_weights(block_type("Q4_0"), (3, 32))
    assert upload(weights, CPU).data.numpy().tobytes() == weights.data.tobytes()
