"""Importing torch, and what is built on it, without collecting garbage meanwhile.

An import makes some million objects that stay; looking through all of them again and again takes a fifth of a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in this block, and later collections leave alone what there is at its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
