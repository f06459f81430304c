"""The demo model and a random one of K2's form, with experts that can be moved."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k2lite.demo.prepare import prepare_demo_model
from k2lite.quantize.nf4 import nf4_job
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.convert.job import convert
from tests.offload.tiny_models import TinyModel, TinyNf4Model
from tests.tiny import write_checkpoint


@pytest.fixture(scope="session")
def k2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of K2's form with experts of several types, so that slots have several sizes."""
    folder = tmp_path_factory.mktemp("offload")
    write_checkpoint(folder / "k2", "k2", layers=4, experts=16)
    quantize(folder / "k2", folder / "k2.gguf", QuantizeOptions("Q4_K_M"), threads=2)
    return folder / "k2.gguf"


@pytest.fixture(scope="session")
def demo_file() -> Path:
    return prepare_demo_model(report=lambda progress: None)


@pytest.fixture(scope="session")
def k2(k2_file: Path) -> Iterator[TinyModel]:
    model = TinyModel(k2_file)
    yield model
    model.close()


@pytest.fixture(scope="session")
def nf4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyNf4Model]:
    folder = tmp_path_factory.mktemp("nf4")
    write_checkpoint(folder / "k2", "k2", layers=3, experts=16)
    with nf4_job(folder / "k2", folder / "nf4") as planned:
        convert(planned.job, threads=1, verify=False)
    model = TinyNf4Model(folder / "nf4")
    yield model
    model.close()


@pytest.fixture(scope="session")
def demo(demo_file: Path) -> Iterator[TinyModel]:
    model = TinyModel(demo_file)
    yield model
    model.close()
