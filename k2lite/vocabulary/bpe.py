"""Merges of a byte-level BPE vocabulary, rebuilt from nothing but its ranks.

A tiktoken vocabulary lists tokens in the order in which training made them, and each one longer than a byte was made
by joining two earlier ones. Encoding a token with only the tokens before it therefore ends in exactly those two.
"""

from collections.abc import Mapping, Sequence


def merges_from_ranks(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The two parts of every multi-byte token, in rank order; `tokens[rank]` are distinct.

    A token that earlier ones cannot be joined to has no merge and is left out. About 10 us a token.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) > 1 and (parts := _last_merge(token, rank, ranks)) is not None:
            merges.append(parts)
    return merges


def _last_merge(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    splits = [
        (token[:cut], token[cut:])
        for cut in range(1, len(token))
        if ranks.get(token[:cut], rank) < rank and ranks.get(token[cut:], rank) < rank
    ]
    if len(splits) <= 1:  # most tokens: only one cut leaves two known parts
        return splits[0] if splits else None
    parts = _encode_below(token, rank, ranks)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _encode_below(token: bytes, limit: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Join the neighbours of lowest rank until none of a rank below `limit` is left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    pair_ranks = [ranks.get(token[i : i + 2], limit) for i in range(len(token) - 1)]
    while pair_ranks and (best := min(pair_ranks)) < limit:
        i = pair_ranks.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del pair_ranks[i]
        if i < len(pair_ranks):
            pair_ranks[i] = ranks.get(parts[i] + parts[i + 1], limit)
        if i > 0:
            pair_ranks[i - 1] = ranks.get(parts[i - 1] + parts[i], limit)
    return parts
