"""`k2lite run`: the answer on stdout, everything else on stderr."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quant.kernels import KERNELS
from tests.k2lite.cli.conftest import CommandLine

GREEDY = ("--temperature", 0, "-n", 6)


def test_only_the_answer_is_on_stdout(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "hello", *GREEDY)
    record = json.loads(k2lite("run", tiny_file, "-p", "hello", *GREEDY, "--json").out)
    assert output.status == 0
    assert output.out == record["text"] + "\n"
    assert output.err.startswith("6 tokens, ")
    assert "ended by length; seed" in output.err


def test_json_is_one_object_with_everything(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "hello", *GREEDY, "--json", "--seed", 5, "--ctx", "1k")
    record = json.loads(output.out)
    assert output.out.count("\n") == 1
    assert len(record["token_ids"]) == record["completion_tokens"] == 6
    assert (record["finish_reason"], record["seed"], record["context_tokens"]) == ("length", 5, 1024)
    assert record["decode_tokens_per_s"] > 0
    assert record["prefill_tokens_per_s"] > 0
    assert record["tiers"]["ram_bytes"] > 0
    assert record["quantization"] == "Q8_0"


def test_a_raw_prompt_goes_without_the_template(k2lite: CommandLine, tiny_file: Path) -> None:
    raw = json.loads(k2lite("run", tiny_file, "--raw", "-p", "the<|im_end|>", "--json", *GREEDY).out)
    chat = json.loads(k2lite("run", tiny_file, "-p", "the<|im_end|>", "--json", *GREEDY).out)
    assert raw["prompt_tokens"] == 2
    assert chat["prompt_tokens"] > 15, "in a chat the marker is text, and the template comes on top"


def test_the_system_prompt_is_part_of_the_prompt(k2lite: CommandLine, tiny_file: Path) -> None:
    plain = json.loads(k2lite("run", tiny_file, "-p", "hi", "--json", *GREEDY).out)
    with_system = json.loads(k2lite("run", tiny_file, "-p", "hi", "--json", "--system", "the", *GREEDY).out)
    assert with_system["prompt_tokens"] > plain["prompt_tokens"]


def test_the_prompt_can_come_from_stdin(k2lite: CommandLine, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello"))
    from_stdin = k2lite("run", tiny_file, "-p", "-", *GREEDY)
    assert from_stdin.out == k2lite("run", tiny_file, "-p", "hello", *GREEDY).out


def test_a_seed_repeats_an_answer(k2lite: CommandLine, tiny_file: Path) -> None:
    first, second, other = (
        k2lite("run", tiny_file, "-p", "hello", "-n", 8, "--temperature", 1, "--seed", seed).out for seed in (1, 1, 2)
    )
    assert first == second != other


def test_the_number_of_threads_does_not_change_what_is_said(k2lite: CommandLine, tiny_file: Path) -> None:
    answers = {k2lite("run", tiny_file, "-p", "hello", *GREEDY, "--threads", threads).out for threads in (1, 2, 3)}
    assert len(answers) == 1


def test_other_kernels_begin_with_the_same_token(k2lite: CommandLine, tiny_file: Path) -> None:
    options = ("-p", "hello", "--temperature", 0, "-n", 1, "--json")
    named = [json.loads(k2lite("run", tiny_file, *options, "--kernels", name).out) for name in KERNELS]
    assert len(named) == 3
    assert [answer["token_ids"] for answer in named] == [named[0]["token_ids"]] * 3


def test_unknown_kernels_are_refused_with_the_known_ones(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "x", "--kernels", "magic")
    assert output.status == 1
    assert "ggml" in output.err


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused_before_loading(k2lite: CommandLine, seed: int) -> None:
    output = k2lite("run", "no-such-file.gguf", "-p", "x", "--seed", seed)
    assert output.status == 2
    assert "at least 0 and below 2^63" in output.err


@pytest.mark.parametrize("threads", [0, 1_000_000])
def test_threads_that_no_machine_has_are_refused(k2lite: CommandLine, tiny_file: Path, threads: int) -> None:
    output = k2lite("run", tiny_file, "-p", "x", "--threads", threads)
    assert output.status == 2
    assert "at least 1 and at most 512" in output.err


@pytest.mark.parametrize("command", [["run", "-p", "x"], ["inspect"]])
def test_a_name_that_no_file_can_have_is_one_line(k2lite: CommandLine, command: list[str]) -> None:
    output = k2lite(*command, "a" * 300)
    assert output.status == 1
    assert output.err.startswith("k2lite: cannot ") and output.err.count("\n") == 1


def test_pinned_threads_give_the_same_answer(k2lite: CommandLine, tiny_file: Path) -> None:
    free, pinned = (
        json.loads(k2lite("run", tiny_file, "-p", "hi", "--json", "--threads", 2, *more, *GREEDY).out)
        for more in ((), ("--pin",))
    )
    assert pinned["token_ids"] == free["token_ids"]


def test_pinning_what_cannot_be_pinned_is_refused(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "hi", "--pin", "--kernels", "ggml")
    assert output.status == 1
    assert "leave out --pin" in output.err


def test_a_prompt_longer_than_the_context_is_refused(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "x" * 50, "--ctx", 16)
    assert (output.status, output.out) == (1, "")
    assert "but the context holds 16" in output.err


def test_thinking_that_the_model_cannot_do_is_refused(k2lite: CommandLine, tiny_file: Path) -> None:
    output = k2lite("run", tiny_file, "-p", "x", "--thinking", "on")
    assert output.status == 1
    assert "think" in output.err


def test_control_c_stops_after_the_token_and_prints_statistics(tiny_file: Path) -> None:
    command = [sys.executable, "-m", "k2lite.cli.main", "run", str(tiny_file), "-p", "hello", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"ended by cancelled; seed 1" in err
    assert b"Traceback" not in err
    assert out.endswith(b"\n")
