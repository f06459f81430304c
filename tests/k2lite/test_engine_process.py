"""The engine in a child process: the same protocol, errors as they are, and a death that is survived."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from k2lite.child_process import describe_exit
from k2lite.engine_options import EngineOptions
from k2lite.engine_process import CHILD_COMMAND, ProcessEngine
from k2lite.events import Finished, LoadProgress, Message, PrefillProgress, Request, Sampling, Token
from quant.errors import CheckpointError, EngineError, GgufError, RequestError

SCRIPTED = (sys.executable, "-m", "tests.k2lite.scripted_child")
PATIENT = (sys.executable, "-m", "tests.k2lite.patient_child")
REPLY = "the quick brown fox jumps over the lazy dog"
NEVER = threading.Event()


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessEngine]:
    engine = ProcessEngine(None, command=SCRIPTED)
    list(engine.load())
    yield engine
    engine.close()


@pytest.fixture
def patient_engine() -> Iterator[ProcessEngine]:
    """Its first answer stays open until it is stopped."""
    engine = ProcessEngine(None, command=PATIENT)
    list(engine.load())
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> None:
    """A test that ended the shared child must not take the next one with it."""
    if "engine" in request.fixturenames:
        list(request.getfixturevalue("engine").load())


def ask(engine: ProcessEngine, text: str = "hello", stop: threading.Event = NEVER) -> list:
    return list(engine.generate(Request(messages=(Message("user", text),)), stop))


def test_loading_passes_progress_and_facts_on() -> None:
    engine = ProcessEngine(None, EngineOptions(context_tokens=99), SCRIPTED)
    assert list(engine.load()) == [LoadProgress(500, 1000), LoadProgress(1000, 1000)]
    info = engine.info()
    assert (info.context_tokens, info.default_sampling) == (99, Sampling(temperature=0))
    engine.close()


def test_an_answer_comes_with_all_its_events(engine: ProcessEngine) -> None:
    events = ask(engine)
    assert isinstance(events[0], PrefillProgress)
    assert "".join(event.text for event in events if isinstance(event, Token)) == REPLY
    assert isinstance(events[-1], Finished)
    assert (events[-1].text, events[-1].reason) == (REPLY, "stop")


def test_stop_reaches_the_child_and_the_next_answer_is_whole(patient_engine: ProcessEngine) -> None:
    stop, tokens = threading.Event(), 0
    for event in patient_engine.generate(Request(messages=(Message("user", "hello"),)), stop):
        tokens += isinstance(event, Token)
        if tokens == 2:
            stop.set()
    assert isinstance(event, Finished)
    assert event.reason == "cancelled"
    assert 0 < len(event.text) < len(REPLY)
    assert ask(patient_engine)[-1].text == REPLY


def test_an_answer_that_nobody_reads_on_does_not_disturb_the_next(engine: ProcessEngine) -> None:
    abandoned = engine.generate(Request(messages=(Message("user", "hello"),)), NEVER)
    next(abandoned)
    abandoned.close()
    assert ask(engine)[-1].text == REPLY


def test_errors_keep_their_class_and_the_engine_goes_on(engine: ProcessEngine) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        list(engine.generate(Request(raw_prompt=""), NEVER))
    assert ask(engine)[-1].text == REPLY


def test_a_kill_becomes_an_engine_error_and_loading_again_helps(engine: ProcessEngine) -> None:
    with pytest.raises(EngineError, match="was killed, most often because memory ran out"):
        list(engine.generate(Request(raw_prompt="kill"), NEVER))
    with pytest.raises(EngineError, match="was killed"):
        ask(engine)
    list(engine.load())
    assert ask(engine)[-1].text == REPLY


def test_a_bug_in_the_child_is_told_with_its_traceback(engine: ProcessEngine) -> None:
    with pytest.raises(EngineError, match=r"status 1 \(ZeroDivisionError: the model divided by zero\)") as caught:
        list(engine.generate(Request(raw_prompt="crash"), NEVER))
    assert "Traceback" in "".join(caught.value.__notes__)
    assert "\n" not in str(caught.value)


def test_closing_from_another_thread_ends_an_answer_under_way(patient_engine: ProcessEngine) -> None:
    answer = patient_engine.generate(Request(messages=(Message("user", "hello"),)), NEVER)
    next(answer)
    closer = threading.Thread(target=patient_engine.close)
    closer.start()
    with pytest.raises(EngineError):
        list(answer)
    closer.join()
    patient_engine.close()


def test_the_real_child_refuses_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(b"not a model at all")
    engine = ProcessEngine(file)
    with pytest.raises(GgufError):
        list(engine.load())
    assert engine._child is None, "no process is left behind"


def test_the_child_ignores_modules_of_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((GgufError, CheckpointError)):
        list(ProcessEngine(tmp_path / "absent.gguf").load())


def test_the_child_ends_when_its_parent_is_killed() -> None:
    """The parent prints the child's process id and is killed; the child reads the end of its stdin."""
    code = (
        "import sys; from k2lite.engine_process import ProcessEngine\n"
        f"engine = ProcessEngine(None, command={SCRIPTED!r}); list(engine.load())\n"
        "print(engine._child._process.pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 60
    while runs(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def runs(number: int) -> bool:
    """Whether a process has not ended, be it that nobody has asked for its status yet."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_exit_is_described_in_one_line() -> None:
    assert describe_exit(-15, []) == "the engine process was ended by SIGTERM"
    assert describe_exit(3, ["bad\n", "\x1b[31mworse\n", "\n"]) == "the engine process ended with status 3 (␛[31mworse)"
    assert describe_exit(0, []) == "the engine process ended with status 0 (without a word)"


def test_the_real_child_command_runs_this_package() -> None:
    assert CHILD_COMMAND[1:] == ("-P", "-m", "k2lite.engine_child")
