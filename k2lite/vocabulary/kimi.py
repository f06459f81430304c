"""Kimi's reserved tokens, which follow the others in the vocabulary, and how its tokenizer files write all of them."""

import base64
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

RESERVED = 256  # ids behind the tokens of every Kimi vocabulary

Marker = tuple[str, bool]  # text, special: readers that leave special tokens out do not show it

# Offset from the first reserved id -> (text, special), as in the first Kimi K2 release.
_FIRST: Mapping[int, Marker] = MappingProxyType(
    {
        0: ("[BOS]", True),
        1: ("[EOS]", True),
        2: ("<|im_end|>", True),
        3: ("<|im_user|>", True),
        4: ("<|im_assistant|>", True),
        6: ("<|start_header_id|>", True),
        7: ("<|end_header_id|>", True),
        9: ("[EOT]", True),
        10: ("<|im_system|>", True),
        11: ("<|tool_calls_section_begin|>", False),
        12: ("<|tool_calls_section_end|>", False),
        13: ("<|tool_call_begin|>", False),
        14: ("<|tool_call_argument_begin|>", False),
        15: ("<|tool_call_end|>", False),
        17: ("<|im_middle|>", True),
        254: ("[UNK]", True),
        255: ("[PAD]", True),
    }
)
# Named since the thinking models.
_LATER: Mapping[int, Marker] = MappingProxyType(
    {
        18: ("<|media_begin|>", True),
        19: ("<|media_content|>", True),
        20: ("<|media_end|>", True),
        21: ("<|media_pad|>", True),
        22: ("<think>", False),
        23: ("</think>", False),
    }
)


def markers(*, thinks: bool) -> dict[int, Marker]:
    """Offset from the first reserved id -> (text, special), by offset; `thinks` adds <think> and the media markers."""
    return dict(sorted({**_FIRST, **(_LATER if thinks else {})}.items()))


def marker_ids(base: int) -> dict[str, int]:
    """Ids of all named reserved tokens by their text, when the first reserved id is `base`."""
    return {text: base + offset for offset, (text, _) in markers(thinks=True).items()}


def added_tokens(base: int, named: Mapping[int, Marker]) -> dict[str, dict[str, Any]]:
    """The `added_tokens_decoder` of tokenizer_config.json that gives reserved ids their names."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        str(base + offset): {"content": text, **flags, "special": special} for offset, (text, special) in named.items()
    }


def ranked_lines(tokens: Iterable[bytes]) -> str:
    """The text of tiktoken.model: one line `base64(bytes) rank` for each token, which come by rank."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
