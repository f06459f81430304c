import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lite.events import ToolCall
from k2lite.output_parser import OutputParser
from k2lite.tokenizer import Tokenizer
from k2lite.vocabulary.byte_alphabet import byte_to_character
from k2lite.vocabulary.control_text import ControlText
from k2lite.vocabulary.vocabulary import STRUCTURE_TEXTS
from tests.tiny_tokenizer import special_id

SECTION = "<|tool_calls_section_begin|>"
SECTION_END = "<|tool_calls_section_end|>"
CALL = '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>'
F = ToolCall("functions.f:0", "f", '{"x": 1}')


def model_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What a model writes: structure as tokens where the vocabulary has them, all else as text."""
    structure = ControlText({name: tokenizer.special[name] for name in STRUCTURE_TEXTS if name in tokenizer.special})
    return [
        token
        for piece, marker in structure.pieces(text)
        for token in (tokenizer.encode(piece) if marker is None else [marker])
    ]


def parse(tokenizer: Tokenizer, ids: Iterable[int], starts_thinking: bool = False) -> OutputParser:
    """A parser that has read all of `ids`, with what it streamed checked against what it collected."""
    parser = OutputParser(tokenizer, starts_thinking)
    pieces = [piece for token in ids for piece in parser.push(token)] + parser.finish()
    assert all(text for _, text in pieces)
    for channel, whole in (("answer", parser.text), ("think", parser.reasoning)):
        assert "".join(text for name, text in pieces if name == channel) == whole
    return parser


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory) -> Tokenizer:
    """A vocabulary without a single marker: every one of them comes as text."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {character: byte for byte, character in enumerate(byte_to_character())}
    content = {
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "added_tokens": [{"id": 256, "content": "<end>", "special": True}],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.from_folder(folder)


@pytest.fixture(params=["tokens", "text"])
def tokenizer(request, tiny_tokenizer, byte_tokenizer) -> Tokenizer:
    """Markers as token ids, and as plain text."""
    return tiny_tokenizer if request.param == "tokens" else byte_tokenizer


def test_published_cases(golden, tokenizer, kimi_tokenizer):
    for vocabulary in (tokenizer, kimi_tokenizer):
        for case in golden["tool_parse"]["cases"]:
            parser = parse(vocabulary, model_ids(vocabulary, case["text"]))
            calls = [asdict(call) | {"arguments": json.loads(call.arguments)} for call in parser.tool_calls]
            found = (parser.reasoning, parser.text, calls)
            assert found == (case["reasoning"], case["content"], case["tool_calls"]), case["name"]


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "calls"),
    [
        ("plain", "", "plain", ()),
        ("<think>why</think>because", "why", "because", ()),
        ("\n<think>why</think>because", "why", "\nbecause", ()),
        ("<think></think>because", "", "because", ()),
        (f"<think>why{CALL}", "why", "", (F,)),
        (f"<think>why{SECTION}{CALL}{SECTION_END}</think>done", "why", "done", (F,)),
        (f"a{SECTION}\n{CALL}\n{CALL}\n{SECTION_END}b", "", "ab", (F, F)),
        (f"{SECTION}{CALL}but then", "", "but then", (F,)),
        (f"{SECTION}no call", "", "no call", ()),
        (CALL.replace("<|tool_call_end|>", SECTION_END) + "after", "", "after", (F,)),
        ("answer <think> is a tag", "", "answer <think> is a tag", ()),
        ("a </think> b", "", "a </think> b", ()),
        ("a <|tool_call_end|> b", "", "a <|tool_call_end|> b", ()),
        ("<|tool_call_begin|><|tool_call_end|>x", "", "x", ()),
    ],
)
def test_structure(tokenizer, text, reasoning, answer, calls):
    parser = parse(tokenizer, model_ids(tokenizer, text))
    assert (parser.reasoning, parser.text, parser.tool_calls) == (reasoning, answer, calls)


def test_a_prompt_that_opened_the_reasoning_needs_only_its_end(tokenizer):
    parser = parse(tokenizer, model_ids(tokenizer, "why</think>because"), starts_thinking=True)
    assert (parser.reasoning, parser.text) == ("why", "because")


def test_a_repeated_opening_is_dropped(tokenizer):
    parser = parse(tokenizer, model_ids(tokenizer, "<think>why</think>because"), starts_thinking=True)
    assert (parser.reasoning, parser.text) == ("why", "because")


def test_a_torn_call_is_no_call_but_a_whole_one_without_end_is(tokenizer):
    begin = "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    assert parse(tokenizer, model_ids(tokenizer, begin + '{"x": 1}')).tool_calls == (F,)
    assert parse(tokenizer, model_ids(tokenizer, begin + '{"x": ')).tool_calls == ()
    assert parse(tokenizer, model_ids(tokenizer, "<|tool_call_begin|>functions.f")).tool_calls == ()


def test_markers_by_id_leave_the_same_letters_in_text_alone(tiny_tokenizer):
    """An argument that quotes the format: as text it is text, and a token inside it is part of it too."""
    begin = model_ids(tiny_tokenizer, "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>")
    quoted = '"<|tool_call_end|><|tool_call_section_end|><think>"'
    end = [special_id("<|tool_call_end|>")]
    parser = parse(tiny_tokenizer, begin + tiny_tokenizer.encode(quoted) + [special_id("</think>"), *end])
    assert parser.tool_calls == (ToolCall("functions.f:0", "f", quoted + "</think>"),)


def test_answers_may_quote_markers(tiny_tokenizer):
    text = "Write <think> and <|tool_call_begin|>."
    parser = parse(tiny_tokenizer, tiny_tokenizer.encode(text))
    assert (parser.text, parser.reasoning, parser.tool_calls) == (text, "", ())


def test_the_first_release_does_not_think_so_the_markers_are_text(first_release_tokenizer):
    text = f"<think>a</think>b{CALL}"
    parser = parse(first_release_tokenizer, model_ids(first_release_tokenizer, text))
    assert (parser.text, parser.tool_calls) == ("<think>a</think>b", (F,))
    started = parse(first_release_tokenizer, first_release_tokenizer.encode("a</think>b"), starts_thinking=True)
    assert (started.reasoning, started.text) == ("a", "b")


def test_text_that_could_begin_a_marker_is_held_back(byte_tokenizer):
    parser = OutputParser(byte_tokenizer, starts_thinking=False)
    streamed = ["".join(text for _, text in parser.push(token)) for token in byte_tokenizer.encode("a <b <|to!")]
    assert streamed == ["a", " ", "", "<b", " ", "", "", "", "", "<|to!"]


def test_half_characters_are_held_back(tiny_tokenizer):
    parser = OutputParser(tiny_tokenizer, starts_thinking=False)
    pieces = [parser.push(token) for token in tiny_tokenizer.encode("🚀")]
    assert pieces[:-1] == [[]] * (len(pieces) - 1)
    assert pieces[-1] == [("answer", "🚀")]


def test_what_is_held_back_comes_at_the_end(tokenizer):
    ids = tokenizer.encode("a <|tool_call")
    assert parse(tokenizer, ids).text == "a <|tool_call"
    assert parse(tokenizer, tokenizer.encode("é")[:1]).text == "\ufffd"


def test_the_token_that_ends_the_answer_has_no_text(tiny_tokenizer):
    ids = [*tiny_tokenizer.encode("a <|tool"), special_id("<|im_end|>")]
    assert parse(tiny_tokenizer, ids).text == "a <|tool"


def test_channels_are_named_as_they_stream(tiny_tokenizer):
    parser = OutputParser(tiny_tokenizer, starts_thinking=False)
    ids = model_ids(tiny_tokenizer, f"<think>why</think>so{SECTION}{CALL}{SECTION_END}")
    channels = [channel for token in ids for channel, _ in parser.push(token)]
    assert [name for name, _ in groupby(channels)] == ["think", "answer", "tool"]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.sampled_from([*sorted(STRUCTURE_TEXTS), "<|tool_call_section_begin|>"]) | st.text(max_size=6)),
    starts_thinking=st.booleans(),
)
def test_any_output_is_read_without_loss_of_text(tiny_tokenizer, pieces, starts_thinking):
    parser = parse(tiny_tokenizer, model_ids(tiny_tokenizer, "".join(pieces)), starts_thinking)
    assert all(call.id for call in parser.tool_calls)
    if not STRUCTURE_TEXTS & set(pieces) and "<|tool_call_section_begin|>" not in pieces:
        assert parser.text + parser.reasoning == "".join(pieces)
