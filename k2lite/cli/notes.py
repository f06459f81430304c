"""What a command tells besides its result: one line on stderr."""

import sys

from k2lite.safe_text import one_line


def print_note(text: str) -> None:
    """Print `text` after the program's name; nothing in it can steer a terminal."""
    print(f"k2lite: {one_line(text)}", file=sys.stderr)
