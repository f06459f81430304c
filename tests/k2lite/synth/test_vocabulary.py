"""Made-up vocabularies."""

import json

import pytest

from k2lite.chat_format import ChatFormat
from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes, changed, text_config
from k2lite.synth.vocabulary import base_tokens, tokenizer_files
from k2lite.tokenizer import Tokenizer
from k2lite.vocabulary.bpe import merges_from_ranks
from quant.errors import UnsupportedError
from tests.k2lite.synth_samples import FAMILIES

TEXT = "Hello, world! Was it 1234?\n\tπ und 你好"


def tokenizer_of(folder, family, vocab=3000):
    shape = shape_named(family)
    config = changed(shape.config, Changes(vocab=vocab), shape.form)
    for name, data in tokenizer_files(config, thinks=shape.thinks).items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder), text_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_the_size_of_the_model_and_loses_no_text(family, tmp_path):
    tokenizer, config = tokenizer_of(tmp_path, family)
    assert tokenizer.vocab_size == config["vocab_size"] == 3000
    assert (tokenizer.bos_id, tokenizer.eos_id) == (config["bos_token_id"], config["eos_token_id"])
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) < len(TEXT.encode()), "tokens of several characters are in use"


@pytest.mark.parametrize("family", FAMILIES)
def test_it_survives_the_trip_through_gguf(family, tmp_path):
    tokenizer, _ = tokenizer_of(tmp_path, family)
    again = Tokenizer.from_gguf({key: value for key, _, value in tokenizer.gguf_metadata()})
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.special == tokenizer.special


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_can_be_written(family, tmp_path):
    tokenizer, _ = tokenizer_of(tmp_path, family)
    prompt = ChatFormat(tokenizer.chat_template, tokenizer).render([{"role": "user", "content": "it is"}])
    text = tokenizer.decode(prompt.ids)
    assert ("<|im_user|>user<|im_middle|>it is<|im_end|>" in text) != ("<｜User｜>it is" in text)


def test_kimis_special_tokens_have_their_names_and_places(tmp_path):
    special = tokenizer_of(tmp_path, "k2-thinking")[0].special
    base = 3000 - 256
    assert (special["[BOS]"], special["<|im_end|>"], special["<|tool_call_end|>"]) == (base, base + 2, base + 15)
    assert (special["<think>"], special["[PAD]"], len(special)) == (base + 22, 2999, 256)


def test_the_first_release_has_no_tokens_for_thinking(tmp_path):
    assert "<think>" not in tokenizer_of(tmp_path, "k2")[0].special


def test_every_long_token_is_made_of_two_before_it():
    tokens = base_tokens(12_000)
    assert len(set(tokens)) == 12_000
    assert len(merges_from_ranks(tokens)) == 12_000 - 256
    assert max(map(len, tokens)) == 3


@pytest.mark.parametrize(("family", "vocab"), [("k2", 511), ("k2", 2_000_000), ("deepseek-v2-lite", 260)])
def test_a_size_that_cannot_be_is_refused_with_the_limits(family, vocab, tmp_path):
    with pytest.raises(UnsupportedError, match=r"cannot be made up: choose [\d,]+ .* to [\d,]+"):
        tokenizer_of(tmp_path, family, vocab)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_vocabularies_of_full_size_are_read(family, tmp_path):
    size = text_config(shape_named(family).config)["vocab_size"]
    tokenizer, _ = tokenizer_of(tmp_path, family, size)
    assert tokenizer.vocab_size == size
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
