"""The chat in a browser, through textual-serve, an optional extra. On this machine only."""

from quant.errors import LibraryError

HOST = "127.0.0.1"


def serve(command: str, port: int) -> int:
    """Serve `command`, one process for each tab, until Ctrl-C. Only programs on this machine can connect."""
    try:
        from textual_serve.server import Server  # type: ignore[import-not-found,unused-ignore]  # may not be there
    except ImportError as error:
        raise LibraryError("--web needs the package textual-serve: pip install 'k2lite[web]'") from error
    Server(command, host=HOST, port=port, title="k2lite chat").serve()
    return 0
