"""Importing torch, and what is built on it, without collecting garbage meanwhile.

An import makes some million objects that stay; looking through all of them again and again takes a fifth of a second.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(module: str) -> Iterator[None]:
    """No garbage is collected in this block, which imports `module`, nor looked for later in what there is at its end.

    Does nothing when it is imported already: what has become garbage since then would stay for ever.
    """
    if module in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
