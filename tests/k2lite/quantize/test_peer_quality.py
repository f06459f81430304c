"""Our Q4_K_M files beside those of llama.cpp's own quantizer: the same types, no larger error, and usable by it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.demo.prepare import demo_eval_text, demo_source
from k2lite.evaluate import kl_divergence
from k2lite.load import load_model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.encode.decode import dequantize
from quant.gguf.gguf_file import GgufFile
from quant.recipe.recipe import RECIPES
from tests.peer import llama_cpp_logits, mean_kl
from tests.quant.llama_quantizer import quantize as quantize_with_llama_cpp
from tests.tiny import build

pytestmark = pytest.mark.slow

RECIPE = "Q4_K_M"
TINY_LAYERS = {"k2": 4, "moonlight": 27, "deepseek-v3": 5}  # 27 is how llama.cpp knows a model without q-LoRA
# llama.cpp does not read beta_fast from the file and takes 32: K2's 1 has to be given to it.
PEER_OPTIONS = {"k2": {"yarn_beta_fast": 1.0}, "demo": {"yarn_beta_fast": 1.0}}
WINDOW = 512
WINDOWS = {"demo": 12, "k2": 2, "moonlight": 1, "deepseek-v3": 2}


@dataclass(frozen=True)
class Files:
    """A model without rounding, and the two Q4_K_M files made of it."""

    name: str
    exact: Path
    ours: Path
    theirs: Path

    def logits(self, path: Path, ids: Tensor) -> Tensor:
        """Of every position, through llama.cpp: [T] -> [T, vocab]."""
        windows = [window.tolist() for window in ids.split(WINDOW)]
        options = PEER_OPTIONS.get(self.name, {})
        return torch.cat([llama_cpp_logits(path, window, **options) for window in windows])


def tiny_folder(family: str, folder: Path) -> Path:
    """A random model whose layers change the stream as little as trained ones do: see test_parity_llama_cpp."""
    gain = 0.05 if family == "moonlight" else 0.15
    return build(family, layers=TINY_LAYERS[family], experts=16, update_gain=gain).write(folder / family)


@pytest.fixture(scope="module", params=["demo", *TINY_LAYERS])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp(request.param)
    source = demo_source() if request.param == "demo" else tiny_folder(request.param, folder)
    exact, ours, theirs = folder / "f32.gguf", folder / "ours.gguf", folder / "theirs.gguf"
    quantize(source, exact, QuantizeOptions("F32"), threads=2, verify=False)
    quantize(source, ours, QuantizeOptions(RECIPE), threads=2)
    assert quantize_with_llama_cpp(exact, theirs, RECIPES[RECIPE].file_type) == 0
    return Files(request.param, exact, ours, theirs)


def tokens(files: Files) -> Tensor:
    """Text for the trained model, chance for the others."""
    if files.name != "demo":
        return torch.randint(0, 640, (WINDOWS[files.name] * WINDOW,), generator=torch.Generator().manual_seed(5))
    loaded = load_model(files.ours, threads=2)
    try:
        return torch.tensor(loaded.tokenizer.encode(demo_eval_text().read_text())[: WINDOWS[files.name] * WINDOW])
    finally:
        loaded.close()


def types(path: Path) -> dict[str, str]:
    with GgufFile.open(path) as file:
        return {name: info.type.name for name, info in file.tensors.items()}


def relative_error(path: Path, exact: Path) -> float:
    """Root of the mean square error of all weights, over that of the weights."""
    error = total = 0.0
    with GgufFile.open(path) as file, GgufFile.open(exact) as reference:
        for name in file.tensors:
            values = dequantize(reference.tensor(name)).double()
            error += float(((dequantize(file.tensor(name)).double() - values) ** 2).sum())
            total += float((values**2).sum())
    return (error / total) ** 0.5


def test_every_tensor_has_the_type_that_llama_cpp_gives_it(files: Files) -> None:
    assert types(files.ours) == types(files.theirs)
    assert {"Q4_K", "Q6_K", "F32"} <= set(types(files.ours).values())


def test_our_weights_are_no_further_from_the_source(files: Files) -> None:
    ours, theirs = (relative_error(path, files.exact) for path in (files.ours, files.theirs))
    print(f"\n{files.name}: relative error {ours:.4%} ours, {theirs:.4%} llama.cpp's")
    assert ours <= theirs * 1.0005


def test_predictions_are_no_further_from_the_source(files: Files) -> None:
    ids = tokens(files)
    exact, ours, theirs = (files.logits(path, ids) for path in (files.exact, files.ours, files.theirs))
    reference = exact.double().log_softmax(-1)
    found = [kl_divergence(reference, logits.double().log_softmax(-1)) for logits in (ours, theirs)]
    difference = found[0] - found[1]
    error = float(difference.std()) / len(difference) ** 0.5
    print(
        f"\n{files.name}: mean KL from the source over {len(ids)} tokens: {float(found[0].mean()):.5f} ours, "
        f"{float(found[1].mean()):.5f} llama.cpp's, difference {float(difference.mean()):+.5f} +- {error:.5f}"
    )
    assert float(difference.mean()) <= 2 * error
    assert float(found[0].mean()) < 0.3, "both are close to the source"


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_0"])
def test_llama_cpp_requantizes_our_file(files: Files, recipe: str, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    assert quantize_with_llama_cpp(files.ours, again, RECIPES[recipe].file_type) == 0
    assert recipe in types(again).values()
    ids = tokens(files)[:WINDOW]
    kl = mean_kl(files.logits(files.ours, ids), files.logits(again, ids))
    print(f"\n{files.name} made {recipe} by llama.cpp: mean KL from our {RECIPE} {kl:.5f}")
    assert kl < (0.01 if recipe == "Q8_0" else 0.5)
