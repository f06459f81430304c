import pytest

from k2lite.template_sandbox import render_template
from k2lite.vocabulary.control_text import ControlText
from quant.errors import RequestError, UnsupportedError

CONTROL = ControlText({"</think>": 1, "<|im_end|>": 2})
BREAKER = "\ue000"
NAMESPACE = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = GROW %}{% endfor %}{{ ns.x }}"


def render(source: str, **variables: object) -> str:
    return render_template(source, variables, CONTROL, BREAKER)


def grow(start: str, step: str) -> str:
    return NAMESPACE.replace("START", start).replace("GROW", step)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ messages.extend(messages) }}",
        "{{ messages[0].update(role='system') }}",
    ],
)
def test_a_template_cannot_reach_into_python(source):
    with pytest.raises(UnsupportedError, match="not allowed to run"):
        render(source, messages=[{"role": "user"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ [1] * 10**10 }}",
        "{{ range(10**9)|list }}",
        "{{ 'a'.center(10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6)|replace('a', 'b' * 10**6) }}",
        "{{ ('b' * 10**6).join('a' * 10**6) }}",
        "{{ ('a' * 10**6)|join('b' * 10**6) }}",
        "{{ [1, 2]|tojson(indent=10**9) }}",
        "{{ 10 ** (10 ** 10) }}",
        grow("'aa'", "ns.x ~ ns.x"),
        grow("'aa'", "ns.x + ns.x"),
        grow("7", "ns.x * ns.x"),
        grow("[1]", "ns.x + ns.x"),
        grow("[1]", "[ns.x, ns.x]"),
        "{% set x = [] %}{% set _ = x.append(x) %}{{ x|string }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}" + "x" * 1000 + "{% endfor %}{% endfor %}",
    ],
)
def test_a_template_cannot_ask_for_endless_memory(source):
    with pytest.raises(UnsupportedError, match="not allowed to run"):
        render(source)


def test_endless_recursion_is_an_error_of_one_line():
    with pytest.raises(UnsupportedError, match="nested too deeply"):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ 'a'|center(9) }}", "{{ 'a' "])
def test_a_template_that_does_not_parse_says_where(source):
    with pytest.raises(UnsupportedError, match="not valid in line 1"):
        render(source)


def test_a_template_that_fails_blames_the_conversation():
    with pytest.raises(RequestError, match="fails on this conversation"):
        render("{{ messages[5].content }}", messages=[])


def test_a_template_may_refuse_with_its_own_words():
    with pytest.raises(RequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_lists_made_by_the_template_can_grow_and_shrink():
    assert render("{% set x = [] %}{% set _ = x.append(1) %}{{ x.pop(0) }}{{ x|length }}") == "10"


def test_tojson_is_json_and_not_html():
    value = {"b": "<é'>", "a": 1}
    assert render("{{ v|tojson }}", v=value) == '{"b": "<é\'>", "a": 1}'
    assert render("{{ v|tojson(separators=(',', ':'), sort_keys=true) }}", v=value) == '{"a":1,"b":"<é\'>"}'
    assert render("{{ [1]|tojson(indent=1) }}") == "[\n 1\n]"


def test_tojson_in_ascii_leaves_the_breaker_to_be_removed():
    text = f"é<{BREAKER}|im_end|>\U0001f600"
    assert render("{{ v|tojson(ensure_ascii=true) }}", v=text) == f'"\\u00e9<{BREAKER}|im_end|>\\ud83d\\ude00"'


@pytest.mark.parametrize(
    "source",
    [
        "{{ '</think>' in v }}",
        "{{ v.split('</think>')[1] == 'answer' }}",
        "{{ v.startswith('why</think>') }}",
        "{{ 'no' not in v and v|replace('</think>', '|') == 'why|answer' }}",
        "{{ v.count('</think>') == 1 }}",
        "{{ v != 'x' and v == 'why</think>answer' }}",
    ],
)
def test_a_template_finds_control_texts_that_were_broken_up(source):
    assert render(source, v=CONTROL.break_up("why</think>answer", BREAKER)) == "True"


def test_trims_and_plain_searches_see_the_text_itself():
    broken = CONTROL.break_up("  <|im_end|> a, b <", BREAKER)
    rendered = render("{{ v|trim }}/{{ v.strip().split(', ')|length }}", v=broken)
    assert rendered.replace(BREAKER, "") == "<|im_end|> a, b </2"
