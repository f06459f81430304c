"""How often a token's expert is found among those that are kept, by the share of all experts that is kept.

Nobody has published such a curve for Kimi K2, so there are two. The nominal one rounds what decayed use counts find in
replays of some hundred tokens of Kimi-Linear (256 experts, the router of K2); `python -m benchmarks.policies` has
this project's own policy on such a recording. The pessimistic one runs through the one point known of K2: the fifth of
the experts that is most likely for the next token covers 53 % of the picks (arXiv 2510.05497).
"""

import bisect
import math
from collections.abc import Callable

HitCurve = Callable[[float], float]

_NOMINAL = (
    (0.0, 0.0),
    (0.02, 0.26),
    (0.0625, 0.437),
    (0.125, 0.578),
    (0.25, 0.736),
    (0.375, 0.822),
    (0.50, 0.870),
    (0.90, 0.983),
    (1.0, 1.0),
)
_KNOWN_SHARE, _KNOWN_HITS = 0.20, 0.53
_EXPONENT = math.log(_KNOWN_HITS) / math.log(_KNOWN_SHARE)


def nominal(share: float) -> float:
    """Hit rate when the best `share` (0 to 1) of all experts is kept."""
    if share >= 1:
        return 1.0
    index = bisect.bisect_right([kept for kept, _ in _NOMINAL], share)
    (left, low), (right, high) = _NOMINAL[index - 1], _NOMINAL[index]
    return low + (high - low) * (share - left) / (right - left)


def pessimistic(share: float) -> float:
    """The same where nothing but K2's one known figure is believed."""
    return min(1.0, max(0.0, share) ** _EXPONENT)


def even(share: float) -> float:
    """Every expert as likely as any other, whatever came before: models of random weights, and the worst case."""
    return min(1.0, max(0.0, share))
