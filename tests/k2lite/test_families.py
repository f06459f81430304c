import pytest

from k2lite.events import Sampling
from k2lite.families import default_sampling, family_of

TEMPLATE_FAMILIES = {
    "kimi-k2-instruct-0711": "Kimi K2",
    "kimi-k2-instruct-0711-tools": "Kimi K2",
    "kimi-k2-instruct-0905": "Kimi K2 0905",
    "kimi-k2-thinking": "Kimi K2 Thinking",
    "kimi-k2-thinking-alt": "Kimi K2 Thinking",
    "kimi-k2.5": "Kimi K2.5 and later",
    "kimi-k2.6-preserve-thinking": "Kimi K2.5 and later",
    "moonlight-16b-a3b-instruct": "other",
}


@pytest.mark.parametrize("name", TEMPLATE_FAMILIES)
def test_published_templates_are_recognised(kimi_data, name):
    assert family_of((kimi_data / "templates" / f"{name}.jinja").read_text()).name == TEMPLATE_FAMILIES[name]


def test_a_model_without_a_template_gets_the_general_defaults():
    assert default_sampling(family_of(None), {}) == Sampling()


def test_sampling_follows_the_publisher():
    hybrid = family_of("<|im_middle|>{{ tools_ts_str }}")
    assert default_sampling(hybrid, {}) == Sampling(temperature=1.0, top_p=0.95)
    assert hybrid.instant_sampling == Sampling(temperature=0.6, top_p=0.95)
    assert default_sampling(family_of("<|im_middle|>You are Kimi"), {}).temperature == 0.6
    assert default_sampling(family_of("<|im_middle|>reasoning_content"), {}).temperature == 1.0


def test_what_the_model_states_comes_first():
    stated = {"temperature": 0.3, "repeat_penalty": 1.1}
    assert default_sampling(family_of(None), stated) == Sampling(temperature=0.3, repeat_penalty=1.1)
