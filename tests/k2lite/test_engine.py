"""The engine in the calling process: prefix reuse, chunks, stopping, limits, reproducibility."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from k2lite.engine import LocalEngine
from k2lite.engine_options import EngineOptions
from k2lite.events import Finished, LoadProgress, Message, PrefillProgress, Request, Sampling, Token
from quant.errors import CheckpointError, RequestError
from tests.k2lite.fakes import STOP, ScriptedLoad, ScriptedModel, ids_of, scripted_engine, tiny_tokenizer

NEVER = threading.Event()


def loaded(model: ScriptedModel, **options: int) -> LocalEngine:
    engine = scripted_engine(model, **options)
    list(engine.load())
    return engine


def ask(engine: LocalEngine, *texts: str, stop: threading.Event = NEVER, **request: object) -> Finished:
    """The end of the answer to a conversation whose turns alternate between user and assistant."""
    return answer_events(engine, chat(*texts, **request), stop)[-1]


def answer_events(engine: LocalEngine, request: Request, stop: threading.Event = NEVER) -> list:
    return list(engine.generate(request, stop))


def chat(*texts: str, **request: object) -> Request:
    roles = ("user", "assistant") * len(texts)
    return Request(messages=tuple(Message(role, text) for role, text in zip(roles, texts, strict=False)), **request)


def test_loading_reports_bytes_and_then_knows_the_model() -> None:
    engine = scripted_engine(ScriptedModel("hi<|im_end|>", context_length=100))
    assert list(engine.load()) == [LoadProgress(500, 1000), LoadProgress(1000, 1000)]
    assert engine.info().context_tokens == 100


def test_loading_errors_reach_the_caller() -> None:
    def fail(*_: object) -> None:
        raise CheckpointError("no such model: look again")

    with pytest.raises(CheckpointError, match="look again"):
        list(LocalEngine(None, loader=fail).load())


def test_an_answer_streams_and_ends_at_the_stop_id() -> None:
    events = answer_events(loaded(ScriptedModel("the fox 你好<|im_end|>")), chat("hello"))
    tokens = [event for event in events if isinstance(event, Token)]
    assert "".join(token.text for token in tokens) == "the fox 你好"
    assert [token.id for token in tokens if token.id is not None] == ids_of("the fox 你好")
    finished = events[-1]
    assert (finished.reason, finished.text) == ("stop", "the fox 你好")
    assert finished.completion_tokens == len(ids_of("the fox 你好"))


def test_thinking_and_answer_come_on_their_channels() -> None:
    events = answer_events(loaded(ScriptedModel("<think>the dog</think>the fox<|im_end|>")), chat("hello"))
    by_channel = {"think": "", "answer": "", "tool": ""}
    for event in events:
        if isinstance(event, Token):
            by_channel[event.channel] += event.text
    assert by_channel == {"think": "the dog", "answer": "the fox", "tool": ""}
    assert (events[-1].reasoning, events[-1].text) == ("the dog", "the fox")


def test_tool_calls_are_collected() -> None:
    call = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Bern"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    )
    (found,) = ask(loaded(ScriptedModel(call)), "weather?").tool_calls
    assert (found.id, found.name, found.arguments) == ("functions.weather:0", "weather", '{"city": "Bern"}')


def test_the_prompt_is_computed_in_chunks() -> None:
    model = ScriptedModel("ok<|im_end|>")
    events = answer_events(loaded(model, prefill_chunk_tokens=7), chat("x" * 20))
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    total = progress[0].total_tokens
    assert [event.done_tokens for event in progress] == [0, *range(7, total, 7), total]
    assert max(model.forwards) == 7


def test_the_next_turn_computes_only_what_is_new() -> None:
    model = ScriptedModel("the lazy dog<|im_end|>")
    engine = loaded(model)
    first = ask(engine, "hello")
    model.forwards.clear()
    second = ask(engine, "hello", first.text, "more")
    # The whole first turn is kept: its prompt, and all tokens of the answer.
    assert second.cached_tokens == first.prompt_tokens + first.completion_tokens
    assert model.forwards[0] == second.prompt_tokens - second.cached_tokens


def test_the_same_prompt_again_computes_its_last_token() -> None:
    model = ScriptedModel("ok<|im_end|>")
    engine = loaded(model)
    first = ask(engine, "hello")
    again = ask(engine, "hello")
    assert again.cached_tokens == first.prompt_tokens - 1
    assert again.text == first.text == "ok"


def test_another_prompt_keeps_the_common_beginning_and_answers_as_a_new_engine_would() -> None:
    engine = loaded(ScriptedModel())
    ask(engine, "hello there", max_tokens=5, sampling=Sampling(), seed=1)
    reused = ask(engine, "hello world", max_tokens=5, sampling=Sampling(), seed=1)
    fresh = ask(loaded(ScriptedModel()), "hello world", max_tokens=5, sampling=Sampling(), seed=1)
    assert reused.cached_tokens > 0
    assert (reused.text, reused.completion_tokens) == (fresh.text, fresh.completion_tokens)


def test_stop_is_honoured_within_one_token_and_keeps_text_and_cache() -> None:
    model = ScriptedModel("abcdefgh<|im_end|>")
    engine = loaded(model)
    stop, events = threading.Event(), []
    for event in engine.generate(chat("hello"), stop):
        events.append(event)
        if isinstance(event, Token) and len([e for e in events if isinstance(e, Token)]) == 3:
            stop.set()
    finished = events[-1]
    assert (finished.reason, finished.text, finished.completion_tokens) == ("cancelled", "abc", 3)
    continued = ask(engine, "hello", "abc", "go on")
    # The last token shown had not been fed back to the model yet.
    assert continued.cached_tokens == finished.prompt_tokens + 2


def test_stop_is_honoured_between_prefill_chunks() -> None:
    model = ScriptedModel("ok<|im_end|>")
    engine = loaded(model, prefill_chunk_tokens=8)
    stop = threading.Event()
    model.on_forward = lambda: stop.set() if len(model.forwards) == 1 else None
    finished = ask(engine, "x" * 40, stop=stop)
    assert (finished.reason, finished.completion_tokens, model.forwards) == ("cancelled", 0, [8, 8])
    assert ask(engine, "x" * 40).cached_tokens == 16


def test_max_tokens_ends_the_answer() -> None:
    model = ScriptedModel("abcdefgh<|im_end|>")
    finished = ask(loaded(model), "hello", max_tokens=4)
    assert (finished.reason, finished.text) == ("length", "abcd")
    assert len(model.forwards) == 4, "the last token need not be fed back"


def test_the_end_of_the_context_ends_the_answer() -> None:
    engine = loaded(ScriptedModel("abcdefgh" * 20 + "<|im_end|>"), context_tokens=20)
    finished = ask(engine, "hello")
    assert finished.reason == "length"
    assert finished.prompt_tokens + finished.completion_tokens == 20


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    engine = loaded(ScriptedModel("ok<|im_end|>"), context_tokens=20)
    with pytest.raises(RequestError, match=r"the prompt has 4\d tokens, but the context holds 20.*--ctx"):
        ask(engine, "x" * 35)
    assert ask(engine, "x").text == "ok", "the engine serves the next request"


def test_a_context_larger_than_the_models_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"600 tokens was asked for, but the model's is 512"):
        loaded(ScriptedModel("ok<|im_end|>"), context_tokens=600)


def test_the_same_seed_gives_the_same_answer_and_a_drawn_one_is_reported() -> None:
    wild = {"max_tokens": 12, "sampling": Sampling(temperature=1.0)}
    drawn = ask(loaded(ScriptedModel()), "hello", **wild)
    again = ask(loaded(ScriptedModel()), "hello", **wild, seed=drawn.seed)
    others = {ask(loaded(ScriptedModel()), "hello", **wild, seed=seed).text for seed in range(4)}
    assert again == replace(drawn, prefill_s=again.prefill_s, decode_s=again.decode_s)
    assert len(others) == 4


def test_a_raw_prompt_is_taken_as_it_is_and_everything_is_the_answer() -> None:
    engine = loaded(ScriptedModel("a<think>b<|im_end|>"))
    finished = answer_events(engine, Request(raw_prompt="<|im_user|>hey"))[-1]
    assert finished.prompt_tokens == len(ids_of("<|im_user|>hey"))
    assert (finished.text, finished.reasoning) == ("a<think>b", "")


class Monotonous(ScriptedModel):
    """Wants to say token 10 for ever, then 9, 8 and so on."""

    def _logits(self, context: Sequence[int]) -> torch.Tensor:
        logits = torch.zeros(self.config.vocab_size)
        logits[:11] = torch.arange(11) / 10 + 1
        return logits


def test_the_penalty_covers_the_prompt_and_the_answer_so_far() -> None:
    prompt = Request(raw_prompt=tiny_tokenizer().decode([9]), max_tokens=3)
    penalty = Sampling(temperature=0, repeat_penalty=2.0)
    plain = answer_events(loaded(Monotonous()), replace(prompt, sampling=Sampling(temperature=0)))
    penalized = answer_events(loaded(Monotonous()), replace(prompt, sampling=penalty))
    assert [event.id for event in plain if isinstance(event, Token)] == [10, 10, 10]
    assert [event.id for event in penalized if isinstance(event, Token)] == [10, 8, 7]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (Request(), "neither messages nor a raw prompt"),
        (Request(raw_prompt=""), "the prompt is empty"),
        (Request(raw_prompt="x", messages=(Message("user", "x"),)), "cannot be combined with messages"),
        (Request(raw_prompt="x", thinking=True), "cannot be combined with thinking"),
        (Request(raw_prompt="x", max_tokens=0), "max_tokens is 0"),
        (Request(raw_prompt="x", seed=-1), "seed is -1"),
        (Request(raw_prompt="x", seed=2**63), "seed is 9223372036854775808"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(request_: Request, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        answer_events(loaded(ScriptedModel("ok<|im_end|>")), request_)


def test_two_answers_at_once_are_a_mistake_of_the_caller() -> None:
    engine = loaded(ScriptedModel("ok<|im_end|>"))
    first = engine.generate(chat("hello"), NEVER)
    next(first)
    with pytest.raises(RuntimeError, match="before the answer under way had ended"):
        next(engine.generate(chat("hello"), NEVER))
    first.close()
    assert ask(engine, "hello").text == "ok", "an abandoned answer frees the engine"


def test_counters_are_those_of_the_one_answer() -> None:
    engine = loaded(ScriptedModel("ok<|im_end|>"))
    first = ask(engine, "hello")
    assert first.tiers == {"ram_experts": first.prompt_tokens + first.completion_tokens}
    second = ask(engine, "hello")
    assert second.tiers == {"ram_experts": 1 + second.completion_tokens}


def test_close_frees_the_model_and_can_be_repeated() -> None:
    engine = loaded(ScriptedModel("ok<|im_end|>"))
    model = engine._loaded
    engine.close()
    engine.close()
    assert model is not None
    assert model.closed
    with pytest.raises(RuntimeError, match="after close"):
        engine.info()


def test_the_stop_token_is_no_part_of_the_answer() -> None:
    events = answer_events(loaded(ScriptedModel("ok<|im_end|>")), chat("hello"))
    assert STOP not in [event.id for event in events if isinstance(event, Token)]


def test_without_thinking_the_advice_for_that_is_followed() -> None:
    load = ScriptedLoad(ScriptedModel())
    load.info = replace(load.info, instant_sampling=Sampling(temperature=2.0))
    engine = LocalEngine(None, loader=lambda *_: load)
    list(engine.load())
    wanted = {"max_tokens": 12, "seed": 1}
    instant = ask(engine, "hello", thinking=False, **wanted)
    assert instant.text == ask(engine, "hello", sampling=Sampling(temperature=2.0), **wanted).text
    assert instant.text != ask(engine, "hello", **wanted).text


def test_a_load_that_nobody_waits_for_is_stopped_at_its_next_report() -> None:
    ended = threading.Event()

    def endless(path: Path | None, options: EngineOptions, report: Callable[[LoadProgress], None]) -> None:
        try:
            while True:
                report(LoadProgress(1, 2))
        finally:
            ended.set()

    loading = LocalEngine(Path("some.gguf"), loader=endless).load()
    next(loading)
    loading.close()
    assert ended.is_set()
