"""How well a model predicts a text, and how far it is from a reference model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quant.errors import EngineError, RequestError

if TYPE_CHECKING:
    from k2lite.load import LoadedModel
    from k2lite.model import Model

# Logits of a whole window would take 335 MB at K2's vocabulary; this many rows at a time take 42.
_ROWS = 64


@dataclass(frozen=True)
class Evaluation:
    """Figures over `tokens` predicted tokens. Those after `perplexity_error` compare with a reference model.

    `perplexity` is exp of the mean negative log-likelihood, `perplexity_error` its standard error, None
    for a single token. `mean_kl` and `kl_p999` are of the divergence of the model's distribution from the reference's,
    in nats per token; `top1_agreement` is the share of tokens at which both find the same token most probable.
    """

    tokens: int
    perplexity: float
    perplexity_error: float | None
    reference_perplexity: float | None = None
    mean_kl: float | None = None
    kl_p999: float | None = None
    top1_agreement: float | None = None


@dataclass
class _Scores:
    """One entry per predicted token, in the order of the text."""

    losses: list[Tensor] = field(default_factory=list)
    reference_losses: list[Tensor] = field(default_factory=list)
    divergences: list[Tensor] = field(default_factory=list)
    agreements: list[Tensor] = field(default_factory=list)


def evaluate(
    model: "LoadedModel",
    text: str,
    *,
    window_tokens: int,
    reference: "LoadedModel | None" = None,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every token of `text` but the first of each window of `window_tokens`, which starts without a past.

    `progress` is told (tokens done, tokens in all). Raises RequestError when the text is too short or the two models
    do not have the same vocabulary.
    """
    context = model.model.config.context_length
    if not 2 <= window_tokens <= context:
        raise RequestError(f"windows of {window_tokens} tokens: must be at least 2 and at most the context, {context}")
    ids = _ids(model, text, reference)[:max_tokens]
    windows = [ids[start : start + window_tokens] for start in range(0, len(ids), window_tokens)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise RequestError(f"the text has {len(ids)} tokens, but at least 2 are needed: give a longer one (--text)")
    scores, done = _Scores(), 0
    for window in windows:
        _score_window(scores, window, model.model, reference.model if reference else None)
        done += len(window)
        if progress is not None:
            progress(done, len(ids))
    return _summary(scores)


def _ids(model: "LoadedModel", text: str, reference: "LoadedModel | None") -> list[int]:
    ids = model.tokenizer.encode(text)
    if reference is None:
        return ids
    sizes = model.model.config.vocab_size, reference.model.config.vocab_size
    if sizes[0] != sizes[1] or reference.tokenizer.encode(text) != ids:
        raise RequestError(
            f"the two models do not read the text as the same tokens (vocabularies of {sizes[0]} and {sizes[1]}): "
            "compare models of one family"
        )
    return ids


def _score_window(scores: _Scores, window: Sequence[int], model: "Model", reference: "Model | None") -> None:
    """Run one window through both models, a few rows at a time."""
    cache = model.new_cache(len(window))
    reference_cache = reference.new_cache(len(window)) if reference else None
    inputs = torch.tensor(window[:-1], dtype=torch.int64)
    targets = torch.tensor(window[1:], dtype=torch.int64)
    for start in range(0, len(inputs), _ROWS):
        rows, wanted = inputs[start : start + _ROWS], targets[start : start + _ROWS]
        predicted = _log_probabilities(model.forward(rows, cache, last_only=False))
        scores.losses.append(_losses(predicted, wanted))
        if reference is not None and reference_cache is not None:
            expected = _log_probabilities(reference.forward(rows, reference_cache, last_only=False))
            scores.reference_losses.append(_losses(expected, wanted))
            scores.divergences.append(kl_divergence(expected, predicted))
            scores.agreements.append(expected.argmax(-1) == predicted.argmax(-1))


def _log_probabilities(logits: Tensor) -> Tensor:
    """[T, vocab] f32 -> f64: the divergence of two close models is a small difference of large sums.

    Raises EngineError when the logits hold NaN or inf.
    """
    if not torch.isfinite(torch.stack(torch.aminmax(logits))).all():
        raise EngineError("the model's output holds NaN or inf: the file may be damaged, fetch or quantize it again")
    return logits.double().log_softmax(-1)


def _losses(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood [T] of `targets` [T]."""
    return -log_probabilities.gather(-1, targets[:, None])[:, 0]


def kl_divergence(reference: Tensor, model: Tensor) -> Tensor:
    """KL(reference || model) [T] in nats, from log-probabilities [T, vocab]."""
    return (reference.exp() * (reference - model)).sum(-1)


def _perplexity(losses: Tensor) -> float:
    """exp of the mean loss in nats; inf beyond the range of a float, where `math.exp` would raise."""
    return float(losses.mean().exp())


def _summary(scores: _Scores) -> Evaluation:
    losses = torch.cat(scores.losses)
    perplexity = _perplexity(losses)
    # First order in the error of the mean: d exp(m) = exp(m) dm.
    error = perplexity * float(losses.std()) / math.sqrt(len(losses)) if len(losses) > 1 else None
    if not scores.divergences:
        return Evaluation(len(losses), perplexity, error)
    divergences = torch.cat(scores.divergences)
    return Evaluation(
        tokens=len(losses),
        perplexity=perplexity,
        perplexity_error=error,
        reference_perplexity=_perplexity(torch.cat(scores.reference_losses)),
        mean_kl=float(divergences.mean()),
        kl_p999=float(divergences.quantile(0.999)),
        top1_agreement=float(torch.cat(scores.agreements).double().mean()),
    )
