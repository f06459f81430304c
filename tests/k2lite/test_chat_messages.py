import pytest

from k2lite.chat_messages import plain_messages
from k2lite.events import Message, ToolCall
from quant.errors import RequestError


def call(call_id: str, name: str = "search", arguments: str = '{"q": 1}') -> ToolCall:
    return ToolCall(call_id, name, arguments)


def test_a_message_becomes_a_dict_with_only_what_it_has():
    assert plain_messages([Message("user", "hi")], parse_arguments=False) == [{"role": "user", "content": "hi"}]


def test_reasoning_calls_and_results_are_carried_over():
    messages = [
        Message("assistant", "", reasoning="why", tool_calls=(call("functions.search:0"),)),
        Message("tool", "found", tool_call_id="functions.search:0", name="search"),
    ]
    assistant, result = plain_messages(messages, parse_arguments=False)
    assert assistant["reasoning_content"] == "why"
    assert assistant["tool_calls"][0]["function"] == {"name": "search", "arguments": '{"q": 1}'}
    assert (result["tool_call_id"], result["name"]) == ("functions.search:0", "search")


def test_arguments_are_parsed_for_templates_that_write_json_themselves():
    messages = [Message("assistant", "", tool_calls=(call("a"), call("b", arguments="{torn")))]
    calls = plain_messages(messages, parse_arguments=True)[0]["tool_calls"]
    assert [item["function"]["arguments"] for item in calls] == [{"q": 1}, "{torn"]


def test_ids_of_other_shapes_are_numbered_over_the_whole_conversation():
    messages = [
        Message("assistant", "", tool_calls=(call("call_x"), call("functions.search:7"))),
        Message("tool", "1", tool_call_id="call_x"),
        Message("tool", "2", tool_call_id="functions.search:7"),
        Message("assistant", "", tool_calls=(call("search:0"),)),
        Message("tool", "3", tool_call_id="search:0"),
    ]
    plain = plain_messages(messages, parse_arguments=False)
    ids = [item["id"] for message in plain for item in message.get("tool_calls", ())]
    assert ids == ["functions.search:0", "functions.search:7", "functions.search:2"]
    assert [message["tool_call_id"] for message in plain if message["role"] == "tool"] == ids


def test_results_without_an_id_belong_to_the_calls_in_order():
    messages = [
        Message("assistant", "", tool_calls=(call("", "a"), call("", "b"))),
        Message("tool", "1"),
        Message("tool", "2"),
    ]
    plain = plain_messages(messages, parse_arguments=False)
    assert [message.get("tool_call_id") for message in plain[1:]] == ["functions.a:0", "functions.b:1"]


def test_parts_of_text_are_joined_and_the_input_is_left_alone():
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert plain_messages([message], parse_arguments=False)[0]["content"] == "ab"
    assert isinstance(message["content"], list)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "root", "content": "x"}, "role 'root'"),
        ({"content": "x"}, "role None"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "image_url"),
        ({"role": "user", "content": ["x"]}, "type 'str'"),
        ({"role": "user", "content": 5}, "content is a int"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "no function with a name"),
    ],
)
def test_what_cannot_be_said_to_the_model_is_refused(message, problem):
    with pytest.raises(RequestError, match=problem):
        plain_messages([message], parse_arguments=False)
