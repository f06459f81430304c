from typing import Any

import pytest

from k2lite.tokenizer import Tokenizer
from quant.errors import GgufError, UnsupportedError
from tests.tiny_tokenizer import special_id

PRE = "tokenizer.ggml."


@pytest.fixture
def metadata(tiny_tokenizer) -> dict[str, Any]:
    return {key: value for key, _, value in tiny_tokenizer.gguf_metadata()}


def test_the_keys_are_those_of_llama_cpp(kimi_tokenizer):
    entries = {key: (kind, value) for key, kind, value in kimi_tokenizer.gguf_metadata()}
    assert entries[PRE + "model"] == ("string", "gpt2")
    assert entries[PRE + "pre"] == ("string", "kimi-k2")
    assert entries[PRE + "bos_token_id"] == ("uint32", 163584)
    assert entries[PRE + "eot_token_id"] == ("uint32", 163586)
    assert entries[PRE + "padding_token_id"] == ("uint32", 163839)
    assert entries[PRE + "add_bos_token"] == ("bool", False)
    kind, tokens = entries[PRE + "tokens"]
    assert (kind, len(tokens), tokens[163592]) == ("array[string]", 163840, "<|reserved_token_163592|>")
    assert entries[PRE + "merges"][0] == "array[string]"


def test_all_reserved_tokens_are_control_tokens_and_none_is_user_defined(metadata):
    assert metadata[PRE + "token_type"] == [1] * 384 + [3] * 256


def test_a_chat_template_is_written_and_read(tmp_path, metadata):
    metadata["tokenizer.chat_template"] = "{{ messages }}"
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.chat_template == "{{ messages }}"
    assert ("tokenizer.chat_template", "string", "{{ messages }}") in tokenizer.gguf_metadata()


def test_tokens_are_filled_up_to_the_rows_of_the_embedding(tiny_tokenizer):
    padded = {key: value for key, _, value in tiny_tokenizer.gguf_metadata(vocab_size=700)}
    assert (len(padded[PRE + "tokens"]), padded[PRE + "token_type"][640:]) == (700, [5] * 60)
    with pytest.raises(UnsupportedError, match=r"640 tokens.*vocab_size is 100"):
        tiny_tokenizer.gguf_metadata(vocab_size=100)


def test_llama_cpp_finds_the_same_tokens(tmp_path, tiny_tokenizer):
    llama_cpp = pytest.importorskip("llama_cpp")
    from quant.gguf.gguf_writer import GgufWriter, MetadataEntry

    entries = [MetadataEntry("general.architecture", "string", "deepseek2")]
    entries += [MetadataEntry(*entry) for entry in tiny_tokenizer.gguf_metadata()]
    path = tmp_path / "vocabulary.gguf"
    with GgufWriter(path, entries, []) as writer:
        writer.finish()
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    text = "the quick brown fox 你好 1234 <think>\n\n  don't"
    assert model.tokenize(text.encode(), add_bos=False, special=False) == tiny_tokenizer.encode(text)
    marked = "<|im_user|>user<|im_middle|>the end<|im_end|>"
    assert model.tokenize(marked.encode(), add_bos=False, special=True) == tiny_tokenizer.encode_marked(marked)
    model.close()


def test_merges_are_rebuilt_for_a_kimi_file_without_them(metadata, tiny_tokenizer):
    del metadata[PRE + "merges"]
    assert Tokenizer.from_gguf(metadata).encode("the quick fox") == tiny_tokenizer.encode("the quick fox")


def test_markers_of_files_that_call_them_normal_are_control_tokens_all_the_same(metadata):
    kinds = metadata[PRE + "token_type"]
    kinds[special_id("<think>")], kinds[special_id("<|im_user|>")] = 1, 4
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.special["<think>"] == special_id("<think>")
    assert tokenizer.special["<|im_user|>"] == special_id("<|im_user|>")
    assert special_id("<think>") not in tokenizer.encode("<think>")


def test_a_file_that_does_not_say_its_token_types_still_reads(metadata):
    del metadata[PRE + "token_type"]
    assert Tokenizer.from_gguf(metadata).special["</think>"] == special_id("</think>")


@pytest.mark.parametrize(
    ("key", "value", "error", "problem"),
    [
        ("model", "llama", UnsupportedError, "'llama'"),
        ("model", None, UnsupportedError, "None"),
        ("pre", "qwen2", UnsupportedError, "'qwen2'"),
        ("tokens", "abc", GgufError, "not a list of str"),
        ("tokens", [1, 2], GgufError, "not a list of str"),
        ("token_type", [1], GgufError, "1 entries for 640 tokens"),
        ("eos_token_id", 640, GgufError, "eos_token_id is 640"),
        ("bos_token_id", "x", GgufError, "bos_token_id is 'x'"),
        ("merges", ["ab"], GgufError, "not two tokens"),
        ("merges", ["q qqq"], GgufError, "does not fit the tokens"),
    ],
)
def test_a_damaged_vocabulary_is_refused(metadata, key, value, error, problem):
    metadata[PRE + key] = value
    with pytest.raises(error, match=problem):
        Tokenizer.from_gguf(metadata).encode("the")
