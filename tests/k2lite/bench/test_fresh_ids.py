"""Made-up texts: in the vocabulary, repeatable, and on a topic for a while where a model has topics."""

from itertools import pairwise

from k2lite.bench.fresh_ids import fresh_ids
from k2lite.synth.topics import topic_tokens


def test_tokens_are_drawn_from_all_of_the_vocabulary() -> None:
    ids = fresh_ids(5000, 100, 0, seed=1)
    assert len(ids) == 5000
    assert set(ids) == set(range(100))
    assert ids == fresh_ids(5000, 100, 0, seed=1) != fresh_ids(5000, 100, 0, seed=2)


def test_a_text_stays_on_a_topic() -> None:
    for vocab in (1000, 163840, 70):
        size = topic_tokens(vocab, 64)
        ids = fresh_ids(1000, vocab, 64, seed=1)
        assert len(ids) == 1000
        assert max(ids) < vocab
        topics = [token // size for token in ids]
        changes = sum(before != after for before, after in pairwise(topics))
        assert 5 < changes < 16
