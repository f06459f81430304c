"""The forward pass against transformers, in float32, for every family in its own on-disk format."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from k2lite.attention import naive_is_cheaper
from k2lite.load import LoadedModel, load_model
from tests.tiny import TinyCheckpoint, build
from tests.tiny_families import FAMILIES
from tests.tiny_reference import reference_logits

GREEDY_STEPS = 64


def tokens(tiny: TinyCheckpoint, count: int, seed: int = 7) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, tiny.text_config["vocab_size"], (count,), generator=generator).tolist()


def prefill(loaded: LoadedModel, ids: list[int], chunk: int) -> Tensor:
    """Logits of all positions [T, vocab], processed in chunks."""
    cache = loaded.model.new_cache(len(ids))
    pieces = torch.tensor(ids).split(chunk)
    return torch.cat([loaded.model.forward(piece, cache, last_only=False) for piece in pieces])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest reference value."""
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> TinyCheckpoint:
    return build(request.param)


@pytest.fixture(scope="module", params=["reference", "native"])
def loaded(request: pytest.FixtureRequest, tiny: TinyCheckpoint, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tiny.write(tmp_path_factory.mktemp("checkpoint"))
    model = load_model(folder, kernels=request.param, threads=2)
    yield model
    model.close()


def test_logits_equal_the_reference(tiny, loaded):
    ids = tokens(tiny, 48)
    expected = reference_logits(tiny, ids)
    actual = prefill(loaded, ids, chunk=len(ids))
    error = relative_error(actual, expected)
    print(f"\n{tiny.text_config['model_type']} {tiny.family.storage}: relative error {error:.1e}")
    assert error < 1e-4
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))


def test_prefill_in_chunks_and_decode_equal_prefill_at_once(tiny, loaded):
    ids = tokens(tiny, 48)
    whole = prefill(loaded, ids, chunk=len(ids))
    # Chunks of 48 expand keys and values, single tokens stay in latent space: both forms are compared here.
    assert naive_is_cheaper(48, 48, loaded.model.config) and not naive_is_cheaper(1, 48, loaded.model.config)
    for chunk in (1, 7, 32):
        assert relative_error(prefill(loaded, ids, chunk), whole) < 2e-5


def test_greedy_tokens_equal_the_reference(tiny, loaded):
    prompt = tokens(tiny, 12, seed=3)
    cache = loaded.model.new_cache(len(prompt) + GREEDY_STEPS)
    logits = loaded.model.forward(torch.tensor(prompt), cache)
    produced: list[int] = []
    for _ in range(GREEDY_STEPS):
        produced.append(int(logits[-1].argmax()))
        logits = loaded.model.forward(torch.tensor(produced[-1:]), cache)
    # If every token is the reference's choice after all tokens before it, then the reference generates the same.
    choices = reference_logits(tiny, prompt + produced).argmax(-1).tolist()
    assert produced == choices[len(prompt) - 1 : -1]


def test_a_cut_cache_continues_as_a_fresh_one(tiny, loaded):
    ids = tokens(tiny, 24)
    cache = loaded.model.new_cache(64)
    loaded.model.forward(torch.tensor(ids + tokens(tiny, 8, seed=1)), cache)
    cache.truncate(20)
    again = loaded.model.forward(torch.tensor(ids[20:]), cache)
    assert relative_error(again, prefill(loaded, ids, chunk=24)[-1:]) < 2e-5
