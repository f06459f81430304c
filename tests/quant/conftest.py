"""The instruction sets of the native library, one after the other."""

from collections.abc import Iterator

import pytest

from quant.native_library import ISAS, load_native


@pytest.fixture(params=list(ISAS))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Work is done with this instruction set during the test, which is skipped where the machine lacks it."""
    library = load_native()
    if request.param not in library.isas():
        pytest.skip(f"this machine has no {request.param}")
    before = library.isa
    library.use(request.param)
    yield request.param
    library.use(before)
