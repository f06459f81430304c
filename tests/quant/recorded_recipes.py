"""Reading the types that llama.cpp's quantizer picked for the published models."""

from typing import Any


def expected_type(types: dict[str, Any], name: str) -> str:
    """Look a tensor up in recipes.json: suffix -> type, or suffix -> {type: "1-2,5"} by layer."""
    if not name.startswith("blk."):
        return types[name]
    _, layer, suffix = name.split(".", 2)
    entry = types[suffix]
    if isinstance(entry, str):
        return entry
    for kind, ranges in entry.items():
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            if int(first) <= int(layer) <= int(last or first):
                return kind
    raise KeyError(name)
