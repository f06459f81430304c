"""One token through all layers in one native call, against the same model layer after layer: the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from k2lite.config_gguf import config_from_gguf
from k2lite.load_gguf import GgufTensors
from k2lite.model import Model
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from k2lite.weights import build_model, mapped_layers
from offload.mapped_experts import MappedExperts
from offload.warm_up import WarmUp
from quant.gguf.gguf_file import GgufFile
from quant.kernels import Kernels, make_kernels
from tests.tiny import write_checkpoint

FAMILIES = ("k2", "moonlight", "deepseek-v3", "deepseek-v2-lite")


def tiny_file(folder: Path, family: str, recipe: str) -> Path:
    write_checkpoint(folder / family, family)
    path = folder / f"{family}.gguf"
    quantize(folder / family, path, QuantizeOptions(recipe), threads=2)
    return path


@contextmanager
def opened(path: Path, kernels_name: str = "native", threads: int = 2) -> Iterator[tuple[GgufFile, Kernels]]:
    kernels = make_kernels(kernels_name, threads)
    with GgufFile.open(path) as file:
        yield file, kernels
    kernels.close()


def model_of(file: GgufFile, kernels: Kernels) -> Model:
    return build_model(config_from_gguf(file.metadata), GgufTensors(file), kernels)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("recipe", ["F32", "Q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_gives_the_bits_and_the_counts_of_layer_after_layer(
    family: str, recipe: str, threads: int, tmp_path: Path
) -> None:
    with opened(tiny_file(tmp_path, family, recipe), threads=threads) as (file, kernels):
        direct, plain = model_of(file, kernels), model_of(file, kernels)
        assert direct._direct is not None
        plain._direct = None
        caches = direct.new_cache(40), plain.new_cache(40)
        generator = torch.Generator().manual_seed(1)
        for length in (5, *[1] * 20, 3, 1, 1):
            ids = torch.randint(0, direct.config.vocab_size, (length,), generator=generator)
            found, expected = direct.forward(ids, caches[0]), plain.forward(ids, caches[1])
            assert torch.equal(found, expected)
        assert direct.counters() == plain.counters()
        assert direct.experts_state().used == plain.experts_state().used
        assert direct.experts_state().scores == plain.experts_state().scores


def test_other_kernels_other_types_and_other_experts_go_layer_by_layer(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, "k2", "Q8_0")
    for kernels_name in ("ggml", "reference"):
        with opened(path, kernels_name) as (file, kernels):
            assert model_of(file, kernels)._direct is None
    with opened(tiny_file(tmp_path / "rare", "k2", "Q5_1")) as (file, kernels):
        assert model_of(file, kernels)._direct is None
    with opened(path) as (file, kernels):
        model, other = model_of(file, kernels), model_of(file, kernels)
        model.record_routing(tmp_path / "routing.jsonl")
        model.forward(torch.tensor([1]), model.new_cache(8))
        assert model._direct is not None and not model._direct.is_ready(model._experts)
        assert not model._direct.is_ready(other._experts)
        model.close()
        assert len((tmp_path / "routing.jsonl").read_text().splitlines()) == 1


def test_what_is_still_on_the_drive_is_asked_for_layer_by_layer(tmp_path: Path) -> None:
    with opened(tiny_file(tmp_path, "k2", "Q8_0")) as (file, kernels):
        reader_of: list[MappedExperts] = []

        def make(reader: object, routers: object, kernels: Kernels) -> MappedExperts:
            layers = mapped_layers(reader, routers)  # type: ignore[arg-type]
            arrays = [tensor.data for layer in layers.values() for tensor in layer.tensors]
            reader_of.append(MappedExperts(layers, kernels, WarmUp(arrays)))
            return reader_of[0]

        model = build_model(config_from_gguf(file.metadata), GgufTensors(file), kernels, make)
        assert model._direct is not None
        assert not model._direct.is_ready(model._experts)  # the warm-up waits for somebody to listen
        model.listen(None)
        model.settle()
        assert model._direct.is_ready(model._experts)
        model.close()


def test_what_does_not_fit_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    with opened(tiny_file(tmp_path, "k2", "Q8_0")) as (file, kernels):
        model = model_of(file, kernels)
        assert model._direct is not None
        call, config = model._direct._call, model.config
        cache = model.new_cache(4)
        caches = [cache.layer(index) for index in range(config.n_layers)]
        x, turn = torch.zeros(1, config.hidden_size), torch.zeros(1, config.qk_rope_dim // 2)
        call(x, caches, 3, (turn, turn))
        with pytest.raises(ValueError, match="one token"):
            call(torch.zeros(2, config.hidden_size), caches, 0, (turn, turn))
        with pytest.raises(ValueError, match=r"shorter|longer"):
            call(x, caches[1:], 0, (turn, turn))
        with pytest.raises(ValueError, match="cache"):
            call(x, [*caches[1:], torch.zeros(4, config.latent_dim + 1)], 0, (turn, turn))
        with pytest.raises(ValueError, match="rotations"):
            call(x, caches, 0, (turn.repeat(2, 1), turn.repeat(2, 1)))
        for position in (-1, 4, 2**62):
            with pytest.raises(ValueError, match="k2quant_pass"):
                call(x, caches, position, (turn, turn))
