"""Nothing is collected while heavy modules are imported, and what they made is not looked at later."""

import gc

import pytest

from k2lite.uncollected import uncollected


def test_collecting_pauses_and_goes_on() -> None:
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        kept = [[number] for number in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)
    gc.unfreeze()


def test_collecting_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


def test_who_collects_by_himself_is_left_alone() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
