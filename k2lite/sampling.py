"""Drawing the next token from the logits."""

from collections.abc import Collection

import torch
from torch import Tensor

from k2lite.events import Sampling
from quant.errors import EngineError

# A token counts as repeated when it is among this many last tokens of prompt and answer.
REPEAT_WINDOW_TOKENS = 256

# Sorting a vocabulary of 163,840 takes 14 ms, its first thousand 0.8 ms; they nearly always hold the whole nucleus.
_FIRST_CANDIDATES = 1024
_GROWTH = 8


def sample(logits: Tensor, sampling: Sampling, recent: Collection[int], generator: torch.Generator) -> int:
    """The next token's id. `logits` is f32 [vocab]; `recent` are the ids that the repetition penalty looks at.

    In this order: penalty, temperature, top-k, top-p within what that left, min-p. Exactly one random number is drawn
    per token, none at temperature 0. Raises EngineError when the logits hold NaN or inf.
    """
    if not torch.isfinite(logits.max()):
        raise EngineError("the model's output holds NaN or inf: the file may be damaged, fetch or quantize it again")
    if sampling.repeat_penalty != 1 and recent:
        logits = penalize(logits, recent, sampling.repeat_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Differences to the largest logit: they stay finite or become -inf at whatever temperature.
    probabilities = ((logits - logits.max()).double() / sampling.temperature).softmax(0)
    if not (sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return _draw(probabilities, generator)
    kept, ids = _candidates(probabilities, sampling)
    return int(ids[_draw(kept, generator)])


def penalize(logits: Tensor, recent: Collection[int], penalty: float) -> Tensor:
    """CTRL's repetition penalty (Keskar et al. 2019, section 4.1): a repeated token's logit is made less likely."""
    repeated = torch.tensor(sorted(set(recent)), dtype=torch.int64)
    values = logits[repeated]
    return logits.index_put((repeated,), torch.where(values > 0, values / penalty, values * penalty))


def _candidates(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities and ids that the limits leave, the most probable first. At least one is left."""
    if sampling.top_k:
        values, ids = probabilities.topk(min(sampling.top_k, len(probabilities)))
        values = values / values.sum()
    else:
        values, ids = _head(probabilities, sampling)
    before = values.cumsum(0) - values
    kept = int(((before < sampling.top_p) & (values >= sampling.min_p * values[0])).sum())
    return values[:kept], ids[:kept]


def _head(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The most probable tokens, sorted: as many as top-p or min-p can leave, and some more."""
    count = _FIRST_CANDIDATES
    while True:
        values, ids = probabilities.topk(min(count, len(probabilities)))
        past_nucleus = sampling.top_p < 1 and float(values.sum()) >= sampling.top_p
        past_minimum = float(values[-1]) < sampling.min_p * float(values[0])
        if past_nucleus or past_minimum or len(values) == len(probabilities):
            return values, ids
        count *= _GROWTH


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """An index with probability proportional to its weight, by one uniform number against the running sum."""
    running = weights.cumsum(0)
    point = torch.rand((), generator=generator, dtype=torch.float64) * running[-1]
    return min(int(torch.searchsorted(running, point, right=True)), len(weights) - 1)
