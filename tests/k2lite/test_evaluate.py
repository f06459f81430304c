"""Perplexity and divergence against their definitions."""

import math

import pytest
import torch

from k2lite.evaluate import evaluate, kl_divergence
from quant.errors import EngineError, RequestError
from tests.k2lite.fakes import ScriptedLoad, ScriptedModel, tiny_tokenizer
from tests.tiny_tokenizer import VOCAB_SIZE

TEXT = "the quick brown fox jumps over the lazy dog"


class Uniform(ScriptedModel):
    """Finds every token equally probable."""

    def _logits(self, context: object) -> torch.Tensor:
        return torch.zeros(VOCAB_SIZE)


class Certain(ScriptedModel):
    """Finds one token e times more probable than each of the others."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def _logits(self, context: object) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.token), VOCAB_SIZE).float()


def test_guessing_has_a_perplexity_of_the_vocabulary() -> None:
    result = evaluate(ScriptedLoad(Uniform()), TEXT, window_tokens=8)
    assert result.perplexity == pytest.approx(VOCAB_SIZE)
    assert result.perplexity_error == pytest.approx(0, abs=1e-6)
    assert result.mean_kl is None


def test_all_tokens_but_the_first_of_a_window_are_scored_in_a_fresh_context() -> None:
    model = ScriptedModel()
    count = len(tiny_tokenizer().encode(TEXT))
    result = evaluate(ScriptedLoad(model), TEXT, window_tokens=8)
    windows = [min(8, count - start) for start in range(0, count, 8)]
    assert result.tokens == sum(size - 1 for size in windows)
    assert model.forwards == [size - 1 for size in windows if size > 1]


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    model, ids = ScriptedModel(), tiny_tokenizer().encode(TEXT)
    losses = [-model._logits(ids[:n]).double().log_softmax(0)[ids[n]] for n in range(1, len(ids))]
    result = evaluate(ScriptedLoad(model), TEXT, window_tokens=100)
    assert result.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)))
    error = torch.stack(losses).std() / math.sqrt(len(losses))
    assert result.perplexity_error == pytest.approx(result.perplexity * float(error))


def test_divergence_runs_from_the_reference_to_the_model() -> None:
    result = evaluate(ScriptedLoad(Uniform()), TEXT, window_tokens=8, reference=ScriptedLoad(Certain(5)))
    normalizer = VOCAB_SIZE - 1 + math.e
    expected = math.e / normalizer + math.log(VOCAB_SIZE / normalizer)  # sum p (log p - log 1/V)
    assert result.mean_kl == pytest.approx(expected)
    assert result.kl_p999 == pytest.approx(expected)
    assert result.top1_agreement == 0.0
    assert result.reference_perplexity is not None


def test_divergence_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(3, 50, generator=generator).double().log_softmax(-1) for _ in range(2))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_max_tokens_and_progress() -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(
        ScriptedLoad(Uniform()),
        TEXT,
        window_tokens=4,
        max_tokens=6,
        progress=lambda *state: seen.append(state),
    )
    assert result.tokens == 3 + 1
    assert seen == [(4, 6), (6, 6)]


@pytest.mark.parametrize(
    ("text", "window", "complaint"),
    [("", 8, "the text has 0 tokens"), (TEXT, 1, "windows of 1 tokens"), (TEXT, 513, "at most the context, 512")],
)
def test_what_cannot_be_scored_is_refused(text: str, window: int, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        evaluate(ScriptedLoad(Uniform()), text, window_tokens=window)


def test_models_of_different_vocabularies_are_not_compared() -> None:
    other = ScriptedLoad(Uniform())
    other.model.config.vocab_size = 999
    with pytest.raises(RequestError, match=r"vocabularies of 640 and 999"):
        evaluate(ScriptedLoad(Uniform()), TEXT, window_tokens=8, reference=other)


class Overflowing(ScriptedModel):
    """Finds the first token of the vocabulary as probable as `logit` says, all others are at 0."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def _logits(self, context: object) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(0), VOCAB_SIZE) * torch.tensor([self.logit] + [1.0] * 639)


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_a_model_that_gives_nan_is_refused(logit: float) -> None:
    with pytest.raises(EngineError, match="NaN or inf"):
        evaluate(ScriptedLoad(Overflowing(logit)), TEXT, window_tokens=8)


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert evaluate(ScriptedLoad(Overflowing(1e6)), TEXT, window_tokens=8).perplexity == math.inf
