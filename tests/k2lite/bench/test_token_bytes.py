"""Bytes that a token needs, counted by hand for a small file."""

from dataclasses import dataclass

from k2lite.bench.token_bytes import weight_bytes_per_token
from k2lite.config_json import config_from_json
from tests.tiny_families import FAMILIES, decoder_config


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    name: str
    nbytes: int
    row_bytes: int = 0


# 16 experts, of which a token uses four.
CONFIG = config_from_json(
    decoder_config(FAMILIES["k2"], layers=2, experts=16, hidden=256, expert_width=None), name="tiny"
)
EMBEDDING = Stored("token_embd.weight", 4000, row_bytes=40)
HEAD = Stored("output.weight", 4000)


def test_a_matrix_counts_whole() -> None:
    assert weight_bytes_per_token([Stored("blk.0.attn_q_a.weight", 123)], CONFIG) == 123


def test_of_the_experts_only_those_that_are_used_count() -> None:
    assert weight_bytes_per_token([Stored("blk.1.ffn_up_exps.weight", 1600)], CONFIG) == 400


def test_of_the_embedding_one_row_counts() -> None:
    assert weight_bytes_per_token([EMBEDDING, HEAD], CONFIG) == 40 + 4000


def test_an_embedding_that_is_the_head_too_counts_whole() -> None:
    assert weight_bytes_per_token([EMBEDDING], CONFIG) == 40 + 4000


def test_layers_behind_the_model_do_not_count() -> None:
    assert weight_bytes_per_token([Stored("blk.2.attn_q_a.weight", 123)], CONFIG) == 0
