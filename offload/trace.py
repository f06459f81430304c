"""Recorded routing: which experts each token went to, layer by layer, as a text file of one JSON object a token.

    {"tok": 17, "layers": [[3, 40, 201, ...], [17, ...], ...]}

One list for each layer with experts, in the order of the layers. Tokens of a prompt come first, with "prompt": true.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import K2Error

MOST_EXPERTS = 1024
_MOST_BYTES = 1 << 30
_MOST_LAYERS = 512

TokenRouting = tuple[tuple[int, ...], ...]  # [layers][experts of the token]


class TraceError(K2Error):
    """A file is no recorded routing, or a damaged one."""


@dataclass(frozen=True)
class RoutingTrace:
    """`tokens` in their order, of which the first `prompt_tokens` are those of a prompt. All use as many experts."""

    tokens: tuple[TokenRouting, ...]
    experts: int
    prompt_tokens: int = 0

    @property
    def layers(self) -> int:
        """Layers with experts."""
        return len(self.tokens[0])

    @property
    def used_per_layer(self) -> int:
        """Experts that a token uses in a layer."""
        return len(self.tokens[0][0])


def read_trace(path: Path, experts: int | None = None) -> RoutingTrace:
    """A recording. `experts` in a layer; None takes the next power of two above the highest number that occurs, or
    384 where that is nearer. Raises TraceError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TraceError(f"{path} takes more than {_MOST_BYTES:,} bytes: it is no recorded routing")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is no text: it is no recorded routing") from error
    tokens: list[TokenRouting] = []
    prompt_tokens = 0
    for number, line in enumerate(lines, 1):
        record = _record(path, number, line)
        tokens.append(_layers(path, number, record, tokens[0] if tokens else None))
        if record.get("prompt") is True:
            if prompt_tokens != len(tokens) - 1:
                raise TraceError(f"{path}: line {number} is of a prompt, but comes behind tokens that are not")
            prompt_tokens += 1
    if len(tokens) <= prompt_tokens:
        raise TraceError(f"{path} has {len(tokens)} tokens, none of them decoded: record an answer")
    highest = max(max(max(layer) for layer in token) for token in tokens)
    if experts is not None and highest >= experts:
        raise TraceError(f"{path} uses expert {highest}, but there are {experts} in a layer: it is of another model")
    return RoutingTrace(tuple(tokens), experts or _likely_experts(highest), prompt_tokens)


def trace_line(number: int, layers: Sequence[Sequence[int]], prompt: bool) -> str:
    """The line of one token, with experts in rising order."""
    record: dict[str, Any] = {"tok": number, "layers": [sorted(layer) for layer in layers]}
    return json.dumps(record | ({"prompt": True} if prompt else {}), separators=(",", ":"))


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{path}: line {number} is no JSON: record it again") from error
    if not isinstance(record, dict) or not isinstance(record.get("layers"), list):
        raise TraceError(f'{path}: line {number} has no "layers": it is no recorded routing')
    return record


def _layers(path: Path, number: int, record: dict[str, Any], first: TokenRouting | None) -> TokenRouting:
    """The checked experts of one token."""
    layers = record["layers"]
    if not 1 <= len(layers) <= _MOST_LAYERS or (first is not None and len(layers) != len(first)):
        wanted = f"{len(first)}" if first is not None else f"1 to {_MOST_LAYERS}"
        raise TraceError(f"{path}: line {number} has {len(layers)} layers instead of {wanted}")
    used = len(first[0]) if first is not None else len(layers[0]) if isinstance(layers[0], list) else 0
    found = []
    for layer in layers:
        valid = isinstance(layer, list) and all(type(e) is int and 0 <= e < MOST_EXPERTS for e in layer)
        if not valid or len(layer) != used or len(set(layer)) != used or not used:
            raise TraceError(
                f"{path}: line {number} has a layer that is not {used or 'some'} different numbers from 0 to "
                f"{MOST_EXPERTS - 1}"
            )
        found.append(tuple(layer))
    return tuple(found)


def _likely_experts(highest: int) -> int:
    """Published models have a power of two of experts in a layer, or 384."""
    sizes = sorted({384, *(1 << power for power in range(11))})
    return next(size for size in sizes if size > highest)
