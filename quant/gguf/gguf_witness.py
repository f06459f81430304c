"""A program of its own: what the gguf package finds in a file, as one JSON object on stdout.

Its reader makes an object of every entry of every list in the metadata. For a vocabulary of 160,000 tokens these take
half a gigabyte and eight seconds, which a process of its own gives back, and which a stop can cut short. It imports
nothing of this package, so that it can be run by its path.
"""

import json
import sys
from pathlib import Path
from typing import Any


def found_tensors(path: Path) -> list[dict[str, Any]]:
    """Name, type number, numpy shape, first byte and length of every tensor. Raises what the reader raises."""
    import gguf

    return [
        {
            "name": tensor.name,
            "type": int(tensor.tensor_type),
            "shape": [int(size) for size in reversed(tensor.shape.tolist())],
            "start": int(tensor.data_offset),
            "nbytes": int(tensor.n_bytes),
        }
        for tensor in gguf.GGUFReader(path).tensors
    ]


def main() -> None:
    """Print {"tensors": [...]} or {"error": "..."} for the file that is named on the command line."""
    try:
        answer: dict[str, Any] = {"tensors": found_tensors(Path(sys.argv[1]))}
    # Whatever the reader stumbles over is an answer: it has no error of its own.
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
