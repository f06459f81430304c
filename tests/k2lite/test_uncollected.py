"""Nothing is collected while heavy modules are imported, and what they made is not looked at later."""

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from k2lite.uncollected import uncollected


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_collecting_pauses_and_goes_on() -> None:
    frozen = gc.get_freeze_count()
    with uncollected("a module that is not there"):
        assert not gc.isenabled()
        kept = [[number] for number in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_collecting_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), uncollected("a module that is not there"):
        raise ImportError
    assert gc.isenabled()


def test_who_collects_by_himself_is_left_alone() -> None:
    gc.disable()
    with uncollected("a module that is not there"):
        pass
    assert not gc.isenabled()


def test_garbage_made_after_an_import_is_still_found() -> None:
    frozen = gc.get_freeze_count()
    with uncollected("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_an_engines_modules_are_imported_so() -> None:
    """In a process of its own: torch alone is hundreds of thousands of objects."""
    made = "from k2lite.engine_options import EngineOptions\nfrom k2lite.head_start import make_local_engine\n"
    told = "import gc\nmake_local_engine(None, EngineOptions())\nprint(gc.get_freeze_count(), gc.isenabled())"
    answer = subprocess.run([sys.executable, "-c", made + told], capture_output=True, text=True, check=True).stdout
    frozen, enabled = answer.split()
    assert int(frozen) > 100_000 and enabled == "True"
