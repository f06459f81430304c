import hashlib
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lite.tokenizer import Tokenizer
from tests.tiny_tokenizer import special_id

MARKERS = ("<|im_end|>", "<|im_user|>", "<think>", "</think>", "<|tool_call_begin|>", "[BOS]", "[EOS]")
text_with_markers = st.lists(st.sampled_from(MARKERS) | st.text(max_size=20), max_size=8).map("".join)


def reloaded(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary after a trip through GGUF metadata."""
    return Tokenizer.from_gguf({key: value for key, _, value in tokenizer.gguf_metadata()})


@pytest.fixture(scope="module")
def kimi_from_gguf(kimi_tokenizer) -> Tokenizer:
    return reloaded(kimi_tokenizer)


@pytest.fixture(params=["folder", "gguf"])
def kimi(request, kimi_tokenizer, kimi_from_gguf) -> Tokenizer:
    return kimi_tokenizer if request.param == "folder" else kimi_from_gguf


def test_plain_text_has_the_published_ids(kimi, golden):
    for case in golden["encode_plain"]["cases"]:
        assert kimi.encode(case["text"]) == case["ids"], case["text"]
        assert kimi.decode(case["ids"]) == case["text"]


def test_marked_text_has_the_published_ids(kimi, golden):
    for case in golden["encode_with_specials"]["cases"]:
        assert kimi.encode_marked(case["text"]) == case["ids"], case["text"]
        assert kimi.decode(case["ids"]) == case["text"]


def test_the_check_text_of_llama_cpp_has_its_hash(kimi, golden):
    check = golden["llama_cpp_check"]
    ids = kimi.encode(check["text"])
    assert len(ids) == check["n_ids"]
    assert hashlib.sha256(str(ids).encode()).hexdigest() == check["sha256"]


def test_a_stream_holds_back_half_characters(kimi, golden):
    for case in golden["decode_stream"]["cases"]:
        assert kimi.encode(case["text"]) == case["ids"]
        assert [kimi.token_bytes(token).hex() for token in case["ids"]] == case["token_bytes_hex"]
        decoder = kimi.decoder()
        pieces = [decoder.push(token) for token in case["ids"]]
        assert "\ufffd" not in "".join(pieces)
        assert "".join(pieces) + decoder.flush() == case["text"]


def test_control_tokens_have_the_published_ids(kimi, golden):
    assert {text: kimi.special[text] for text in golden["special_ids"]} == golden["special_ids"]
    assert len(kimi.special) == 256
    assert kimi.vocab_size == 163_840
    assert {163585, 163586, 163593} <= kimi.stop_ids


def test_skipping_special_tokens_keeps_those_that_give_structure(kimi, golden):
    kept = [text for text in golden["special_ids"] if kimi.decode([kimi.special[text]], skip_special=True)]
    assert sorted(kept) == sorted(golden["special_flag_false"])


def test_a_gguf_file_of_the_real_vocabulary_starts_fast(kimi_tokenizer):
    metadata = {key: value for key, _, value in kimi_tokenizer.gguf_metadata()}
    started = time.perf_counter()
    assert Tokenizer.from_gguf(metadata).encode("Hello") == kimi_tokenizer.encode("Hello")
    assert time.perf_counter() - started < 3  # measured 0.4 s; rebuilding the merges would add 1.5


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=text_with_markers)
def test_any_text_comes_back_and_plain_text_has_no_control_tokens(tiny_tokenizer, text):
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer.special.values())
    assert tiny_tokenizer.decode(tiny_tokenizer.encode_marked(text)) == text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=text_with_markers)
def test_the_gguf_form_of_a_small_vocabulary_gives_the_same_ids(tiny_tokenizer, small_from_gguf, text):
    assert small_from_gguf.encode(text) == tiny_tokenizer.encode(text)
    assert small_from_gguf.encode_marked(text) == tiny_tokenizer.encode_marked(text)


@pytest.fixture(scope="module")
def small_from_gguf(tiny_tokenizer) -> Tokenizer:
    return reloaded(tiny_tokenizer)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ids=st.lists(st.integers(0, 639), max_size=30))
def test_streaming_any_ids_equals_decoding_them_at_once(tiny_tokenizer, ids):
    decoder = tiny_tokenizer.decoder()
    assert "".join(decoder.push(token) for token in ids) + decoder.flush() == tiny_tokenizer.decode(ids)


def test_lone_surrogates_become_replacement_characters_and_pairs_their_character(tiny_tokenizer):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tiny_tokenizer.decode(tiny_tokenizer.encode("\ud83d\ude00")) == "\U0001f600"
    assert tiny_tokenizer.encode_marked("\udfff<|im_end|>")[-1] == special_id("<|im_end|>")


def test_a_breaker_interrupts_a_control_token_and_leaves_no_trace(tiny_tokenizer):
    ids = tiny_tokenizer.encode_marked("<|im_user|>a<\ue000|im_end|>b<|im_end|>", breaker="\ue000")
    plain = tiny_tokenizer.encode("a<|im_end|>b")
    assert ids == [special_id("<|im_user|>"), *plain, special_id("<|im_end|>")]


def test_ids_beyond_the_vocabulary_have_no_text(tiny_tokenizer):
    # The embedding of some models has more rows than the tokenizer has tokens.
    assert tiny_tokenizer.decode([640, 100_000]) == ""
    with pytest.raises(IndexError):
        tiny_tokenizer.token_bytes(-1)


def test_token_text_shows_half_a_character_as_unknown(tiny_tokenizer):
    first_byte = tiny_tokenizer.encode("é")[0]
    assert tiny_tokenizer.token_text(first_byte) == "\ufffd"
    assert tiny_tokenizer.token_text(special_id("[EOT]")) == "[EOT]"


def test_think_markers_are_text_where_the_vocabulary_does_not_name_them(first_release_tokenizer):
    ids = first_release_tokenizer.encode_marked("<think></think>")
    assert ids == first_release_tokenizer.encode("<think></think>")


def test_nothing_here_loads_torch():
    modules = ["tokenizer", "chat_format", "output_parser", "families", "tool_declaration"]
    code = "; ".join(f"import k2lite.{name}" for name in modules) + "; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
