import pytest

from k2lite.vocabulary.split_rules import SPLIT_RULES, split_rule
from quant.errors import UnsupportedError


def words(rule: str, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in split_rule(rule).pre_tokenizer().pre_tokenize_str(text)]


def test_kimi_cuts_by_case_script_and_three_digits():
    text = "HelloWorld don't 12345你好ab"
    assert words("kimi-k2", text) == ["Hello", "World", " don't", " ", "123", "45", "你好", "ab"]


def test_deepseek_v3_cuts_three_digits_and_keeps_punctuation_with_letters():
    assert words("deepseek-v3", "x.y 1234 你好 ok!\n\n") == ["x", ".y", " ", "123", "4", " ", "你好", " ok", "!\n\n"]


def test_deepseek_llm_cuts_every_digit_and_every_line_end():
    assert words("deepseek-llm", "ab 12 你好!\n\n") == ["ab", " ", "1", "2", " ", "你好", "!", "\n", "\n"]


def test_unknown_rules_are_named_in_the_refusal():
    with pytest.raises(UnsupportedError, match=r"'llama-bpe'.*kimi-k2"):
        split_rule("llama-bpe")


def test_no_rule_loses_text():
    text = "a\u0301 \u200d👩‍👩‍👧 ٣٤٥ \r\n\t x\u3000。Ünïcödé ეს 한국어"
    for rule in SPLIT_RULES:
        assert "".join(words(rule, text)) == text
