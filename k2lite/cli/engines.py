"""The engine of a command that runs it in its own process, with load progress on stderr."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from k2lite.cli.options import engine_options
from k2lite.cli.progress import Show, shown_progress
from k2lite.events import Engine, LoadProgress

_STAGES = {"quantize": "preparing the demo model", "load": "loading"}


def show_loading(show: Show, state: LoadProgress) -> None:
    """Show how far a model is."""
    show(_STAGES[state.stage], state.done_bytes, state.total_bytes)


@contextmanager
def loaded_engine(options: argparse.Namespace) -> Iterator[Engine]:
    """The model that `options` name, loaded; freed when the block ends. Imports torch. Raises K2Error."""
    from k2lite.head_start import make_local_engine

    engine = make_local_engine(options.model, engine_options(options))
    with shown_progress() as show:
        for progress in engine.load():
            show_loading(show, progress)
    try:
        yield engine
    finally:
        engine.close()
