"""What a conversation remembers."""

from k2lite.events import EngineInfo, Finished, Message, Sampling, ToolCall
from tui.conversation import ChatSettings, Conversation

INFO = EngineInfo("m", 10, 20, "F32", Sampling(temperature=1.0), instant_sampling=Sampling(temperature=0.6))
CALL = ToolCall("functions.f:0", "f", "{}")


def finished(text: str, reasoning: str = "", calls: tuple[ToolCall, ...] = ()) -> Finished:
    return Finished("stop", text, reasoning, calls, 1, 0, 1, 0.1, 0.1, 0)


def test_a_question_is_remembered_with_its_answer_only() -> None:
    conversation = Conversation(ChatSettings(system="Be kind."))
    asked = conversation.ask("One?", INFO)
    assert [message.content for message in asked.messages] == ["Be kind.", "One?"]
    assert len(conversation.messages) == 1
    conversation.answered("One?", finished("First.", "why", (CALL,)))
    assert conversation.ask("Two?", INFO).messages[1:] == (
        Message("user", "One?"),
        Message("assistant", "First.", "why", (CALL,)),
        Message("user", "Two?"),
    )


def test_settings_override_the_models_sampling_field_by_field() -> None:
    conversation = Conversation(ChatSettings(sampling={"top_p": 0.5}))
    assert conversation.ask("x", INFO).sampling == Sampling(temperature=1.0, top_p=0.5)


def test_without_thinking_the_models_sampling_is_the_one_for_that() -> None:
    conversation = Conversation(ChatSettings(thinking=False, sampling={"top_p": 0.5}))
    assert conversation.ask("x", INFO).sampling == Sampling(temperature=0.6, top_p=0.5)
