"""A database with many messages, and words to look for in it."""

from pathlib import Path

from tests.tui.sessions.test_store import filled
from tui.sessions.store import SessionStore

SEARCHED = ("expert 383", "message 7777", "router", "zz", "of layer and so on", "absent words", "a")


def many_messages(path: Path, count: int) -> SessionStore:
    """`count` messages of some 900 characters, a hundred to a chat."""
    store = SessionStore(path)
    store._connection.execute("pragma synchronous = off")
    texts = [
        f"message {n}: the router of layer {n % 61} picks expert {n % 384} " + "and so on, " * 70 for n in range(count)
    ]
    for begin in range(0, count, 100):
        filled(store, *texts[begin : begin + 100])
    return store
