"""Every implementation in turn, by its registered name, and the one that adds NF4 to another."""

from collections.abc import Iterator

import pytest

from quant.kernels import KERNELS, Kernels, make_kernels
from quant.kernels.nf4 import with_nf4


@pytest.fixture(scope="module", params=[*KERNELS, "nf4 beside ggml"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    name = request.param.removeprefix("nf4 beside ")
    made = make_kernels(name, threads=3)
    if name != request.param:
        made = with_nf4(made)
    yield made
    made.close()
