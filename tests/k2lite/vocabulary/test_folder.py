import base64
import json
from pathlib import Path

import pytest

from k2lite.tokenizer import Tokenizer
from k2lite.vocabulary.byte_alphabet import byte_to_character, bytes_from_printable, printable_from_bytes
from k2lite.vocabulary.split_rules import SPLIT_RULES
from quant.errors import CheckpointError, UnsupportedError
from tests.tiny_tokenizer import BASE, special_id, write_tokenizer


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tokenizer(tmp_path, thinking_names=True)
    return tmp_path


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def settings(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | changes)


def test_ids_come_from_config_json_before_the_tokenizers_own(folder):
    assert Tokenizer.from_folder(folder).eos_id == special_id("[EOS]")
    write_json(folder / "config.json", {"text_config": {"bos_token_id": 5, "eos_token_id": special_id("<|im_end|>")}})
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (5, special_id("<|im_end|>"))


def test_every_id_that_ends_an_answer_is_a_stop_id(folder):
    write_json(folder / "config.json", {"eos_token_id": [1, 2]})
    write_json(folder / "generation_config.json", {"eos_token_id": 3})
    turn_ends = {special_id(text) for text in ("<|im_end|>", "[EOS]", "[EOT]")}
    assert Tokenizer.from_folder(folder).stop_ids == turn_ends | {1, 2, 3}


def test_the_chat_template_is_found_in_each_of_its_places(folder):
    assert Tokenizer.from_folder(folder).chat_template is None
    settings(folder, chat_template=[{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}])
    assert Tokenizer.from_folder(folder).chat_template == "D"
    settings(folder, chat_template="S")
    assert Tokenizer.from_folder(folder).chat_template == "S"
    (folder / "chat_template.jinja").write_text("J")
    assert Tokenizer.from_folder(folder).chat_template == "J"


def test_unnamed_reserved_ids_have_a_text_of_their_own(folder):
    assert Tokenizer.from_folder(folder).special[f"<|reserved_token_{BASE + 200}|>"] == BASE + 200


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("!!!! 384", "line 385"),
        ("QQ==", "line 385"),
        (f"{base64.b64encode(b'zq').decode()} 900", "does not number"),
        (f"{base64.b64encode(b'a').decode()} 384", "does not number"),
    ],
)
def test_a_damaged_vocabulary_is_refused(folder, line, problem):
    with (folder / "tiktoken.model").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=problem):
        Tokenizer.from_folder(folder)


def test_a_vocabulary_without_all_bytes_is_refused(folder):
    path = folder / "tiktoken.model"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:200]))
    with pytest.raises(CheckpointError, match="56 bytes are missing"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ({"7": {"content": "x", "special": True}}, "reserved ids are 384 to 639"),
        ({"400": {"special": True}}, "damaged"),
        ({"400": {"content": "x", "special": True}, "401": {"content": "x", "special": True}}, "two tokens alike"),
        ([1], "damaged"),
    ],
)
def test_damaged_names_are_refused(folder, named, problem):
    settings(folder, added_tokens_decoder=named)
    with pytest.raises(CheckpointError, match=problem):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_json_is_refused(folder, text):
    (folder / "tokenizer_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither tiktoken\.model nor tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_the_printable_alphabet_stands_for_every_byte():
    assert len(set(byte_to_character())) == 256
    every_byte = bytes(range(256))
    assert bytes_from_printable(printable_from_bytes(every_byte)) == every_byte
    assert printable_from_bytes(b" a\n") == "ĠaĊ"
    assert bytes_from_printable("▁x") == "▁x".encode()


def deepseek_json(**changes: object) -> dict[str, object]:
    """A little tokenizer.json as DeepSeek-V3 has it: control tokens first and last, a gap in the ids."""
    letters = {character: 3 + byte for byte, character in enumerate(byte_to_character())}
    rule = SPLIT_RULES["deepseek-v3"]
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    split = [{**isolated, "pattern": {"Regex": text}} for text in rule.patterns]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*split, byte_level]},
        "post_processor": {**byte_level},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "added_tokens": [
            {"id": 0, "content": "<begin>", "special": True, **added},
            {"id": 1, "content": "<end>", "special": True, **added},
            {"id": 262, "content": "<tool>", "special": False, **added},
        ],
        "model": {
            "type": "BPE",
            "vocab": letters | {"<begin>": 0, "th": 259, "the": 260},
            "merges": ["t h", "th e"],
        },
    } | changes


@pytest.fixture
def deepseek(tmp_path) -> Tokenizer:
    write_json(tmp_path / "tokenizer.json", deepseek_json())
    write_json(
        tmp_path / "tokenizer_config.json",
        {"bos_token": {"content": "<begin>"}, "eos_token": {"content": "<end>"}, "add_bos_token": True},
    )
    return Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_json_is_read_without_its_control_tokens_in_plain_text(deepseek):
    assert (deepseek.bos_id, deepseek.eos_id, deepseek.adds_bos, deepseek.stop_ids) == (0, 1, True, frozenset({1}))
    assert deepseek.encode_marked("<begin>the<tool>") == [0, 260, 262]
    assert not {0, 262} & set(deepseek.encode("<begin>the<tool>"))
    assert deepseek.decode([0, 260, 261, 262]) == "<begin>the<tool>"
    assert deepseek.decode([0, 260, 262], skip_special=True) == "the<tool>"


def test_a_tokenizer_json_survives_the_trip_through_gguf(deepseek):
    metadata = {key: value for key, _, value in deepseek.gguf_metadata(vocab_size=270)}
    again = Tokenizer.from_gguf(metadata)
    text = "the <begin> thethe 1234 的"
    assert again.encode(text) == deepseek.encode(text)
    assert again.encode_marked(text) == deepseek.encode_marked(text)
    assert (again.vocab_size, again.decode([261, 269])) == (270, "")
    assert (again.bos_id, again.eos_id, again.adds_bos) == (0, 1, True)


def test_merges_may_be_pairs(tmp_path):
    content = deepseek_json()
    content["model"]["merges"] = [["t", "h"], ["th", "e"]]
    write_json(tmp_path / "tokenizer.json", content)
    assert Tokenizer.from_folder(tmp_path).encode("the") == [260]


def test_a_splitting_that_gguf_has_no_name_for_cannot_be_written(tmp_path):
    byte_level = {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False, "trim_offsets": True}
    write_json(tmp_path / "tokenizer.json", deepseek_json(pre_tokenizer=byte_level))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    with pytest.raises(UnsupportedError, match="pre_tokenizer"):
        tokenizer.gguf_metadata()


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"model": {"type": "Unigram"}}, UnsupportedError, "Unigram"),
        ({"decoder": {"type": "Metaspace"}}, UnsupportedError, "Metaspace"),
        ({"normalizer": {"type": "NFKC"}}, UnsupportedError, "NFKC"),
        ({"added_tokens": [{"id": 1}]}, CheckpointError, "damaged"),
        ({"added_tokens": [{"id": 10**9, "content": "x", "special": True}]}, CheckpointError, "up to 1000000000"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}, CheckpointError, "damaged"),
    ],
)
def test_other_kinds_of_tokenizer_json_are_refused(tmp_path, change, error, problem):
    write_json(tmp_path / "tokenizer.json", deepseek_json(**change))
    with pytest.raises(error, match=problem):
        Tokenizer.from_folder(tmp_path)


def test_merges_of_tokens_that_do_not_exist_are_refused(tmp_path):
    content = deepseek_json()
    content["model"]["merges"] = ["q q"]
    write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(CheckpointError, match="cannot be used"):
        Tokenizer.from_folder(tmp_path).encode("x")
