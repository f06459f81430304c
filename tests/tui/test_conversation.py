"""What a conversation remembers, on which branch, and what of it is sent."""

from k2lite.events import EngineInfo, Finished, Message, Sampling, ToolCall
from tui.conversation import ChatSettings, Conversation, Node, answer_entry
from tui.sessions.records import Entry, StoredEntry

INFO = EngineInfo("m", 10, 20, "F32", Sampling(temperature=1.0), instant_sampling=Sampling(temperature=0.6))
CALL = ToolCall("functions.f:0", "f", "{}")


def finished(text: str, reasoning: str = "", calls: tuple[ToolCall, ...] = ()) -> Finished:
    return Finished("stop", text, reasoning, calls, 1, 0, 1, 0.1, 0.1, 0)


def user(text: str) -> Entry:
    return Entry(Message("user", text))


def texts(conversation: Conversation) -> list[str]:
    return [node.message.content for node in conversation.path()]


def talk(*said: str) -> tuple[Conversation, list[Node]]:
    conversation = Conversation(ChatSettings())
    return conversation, [conversation.add(user(text)) for text in said]


def test_what_was_said_is_sent_behind_the_system_prompt() -> None:
    conversation = Conversation(ChatSettings(system="Be kind."))
    conversation.add(user("One?"))
    conversation.add(answer_entry(finished("First.", "why", (CALL,))))
    conversation.add(user("Two?"))
    assert conversation.request(INFO).messages == (
        Message("system", "Be kind."),
        Message("user", "One?"),
        Message("assistant", "First.", "why", (CALL,)),
        Message("user", "Two?"),
    )


def test_settings_override_the_models_sampling_field_by_field() -> None:
    conversation = Conversation(ChatSettings(sampling={"top_p": 0.5}))
    assert conversation.request(INFO).sampling == Sampling(temperature=1.0, top_p=0.5)


def test_without_thinking_the_models_sampling_is_the_one_for_that() -> None:
    conversation = Conversation(ChatSettings(thinking=False, sampling={"top_p": 0.5}))
    assert conversation.request(INFO).sampling == Sampling(temperature=0.6, top_p=0.5)


def test_an_edit_is_a_branch_and_the_other_one_can_be_shown_again() -> None:
    conversation, nodes = talk("a", "b", "c")
    edited = conversation.add(user("B"), nodes[0])
    assert texts(conversation) == ["a", "B"]
    assert edited.siblings == [nodes[1], edited]
    conversation.show(nodes[1])
    assert texts(conversation) == ["a", "b", "c"]


def test_the_first_question_can_be_edited_too() -> None:
    conversation, nodes = talk("a", "b")
    assert nodes[0].parent is not None
    conversation.add(user("A"), nodes[0].parent)
    assert texts(conversation) == ["A"]
    assert len(nodes[0].siblings) == 2


def test_ending_earlier_hides_what_follows_and_loses_nothing() -> None:
    conversation, nodes = talk("a", "b", "c")
    conversation.end_at(nodes[0])
    assert texts(conversation) == ["a"]
    conversation.show(nodes[2])
    assert texts(conversation) == ["a", "b", "c"]


def test_a_removed_message_gives_way_to_its_sibling() -> None:
    conversation, nodes = talk("a", "b")
    again = conversation.add(user("B"), nodes[0])
    conversation.remove(again)
    assert texts(conversation) == ["a", "b"]
    conversation.remove(nodes[1])
    assert texts(conversation) == ["a"]


def test_behind_a_cut_only_the_kept_messages_and_the_summary_are_sent() -> None:
    conversation = Conversation(ChatSettings(system="Be kind."))
    for text in "abcd":
        conversation.add(user(text))
    conversation.add(Entry(Message("system", "letters"), kind="cut", extra={"kept": 2}))
    conversation.add(user("e"))
    assert [message.content for message in conversation.messages] == [
        "Be kind.\n\nWhat was said before, in short: letters",
        "c",
        "d",
        "e",
    ]


def test_a_cut_without_summary_and_without_anything_kept() -> None:
    conversation, _ = talk("a", "b")
    conversation.add(Entry(Message("system", ""), kind="cut", extra={"kept": 0}))
    conversation.add(user("c"))
    assert conversation.messages == (Message("user", "c"),)


def test_a_saved_conversation_comes_back_with_its_branches() -> None:
    stored = [
        StoredEntry(7, None, user("a"), 0.0),
        StoredEntry(8, 7, user("b"), 0.0),
        StoredEntry(9, 7, user("B"), 0.0),
        StoredEntry(10, 8, user("c"), 0.0),
    ]
    conversation = Conversation.restored(ChatSettings(), stored, 8)
    assert texts(conversation) == ["a", "b", "c"]
    assert texts(Conversation.restored(ChatSettings(), stored, 9)) == ["a", "B"]
    assert conversation.by_row(9) in conversation.path()[1].siblings
    assert conversation.by_row(99) is None
