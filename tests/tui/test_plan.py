"""The plan and the model picker: what `k2lite plan` prints, drawn; what it complains about, told."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from k2lite.engine_options import EngineOptions
from tests.tui.fake_engine import FakeEngine, Script, says
from tests.tui.screen import chat
from tui import command_output
from tui.command_output import plan_arguments, same_machine
from tui.engine_slot import ModelChoice
from tui.errors import SettingsError
from tui.model_files import model_files
from tui.plan_picture import plan_lines
from tui.screens.models import ModelsScreen, verdict_of

GIB = 2**30


def speed(low: float, high: float, limit: str) -> dict[str, Any]:
    return {
        "good": {"tokens_per_s": high, "limit": limit, "parts": {}},
        "bad": {"tokens_per_s": low, "limit": limit, "parts": {}},
    }


PLAN: dict[str, Any] = {
    "model": {"name": "k2 Q4_K_M", "bytes": 578 * GIB, "experts": 23040, "expert_bytes": 26601881.6},
    "machine": {
        "ram_bytes": 512 * GIB,
        "ram_bytes_per_s": 330e9,
        "drive_bytes_per_s": 12e9,
        "flops": 2e12,
        "cards": [{"name": "RTX4090"}, {"name": "RTX4090"}],
        "origins": {},
    },
    "workload": {"context_tokens": 8192, "depth": 4096, "prompt_tokens": 4096},
    "fits": True,
    "missing_bytes": 0,
    "missing_where": "",
    "mapped": False,
    "places": [
        {"name": "card 0", "memory_bytes": 24 * GIB, "usable_bytes": 23 * GIB, "resident_bytes": 4 * GIB,
         "cache_bytes": GIB, "buffer_bytes": GIB, "expert_count": 640, "expert_bytes": 16 * GIB, "free_bytes": GIB},
        {"name": "RAM", "memory_bytes": 512 * GIB, "usable_bytes": 500 * GIB, "resident_bytes": 0, "cache_bytes": 0,
         "buffer_bytes": 2 * GIB, "expert_count": 20000, "expert_bytes": 498 * GIB, "free_bytes": 0},
    ],
    "drive_experts": 2400,
    "drive_expert_bytes": 60 * GIB,
    "decode": speed(9.5, 14.2, "experts in RAM"),
    "prefill": speed(120, 180, "the processor's arithmetic"),
    "steps": [{"change": "RAM of 640 GiB", "decode": speed(12, 19, "x"), "gain": 1.4}],
}  # fmt: skip


def drawn(plan: dict[str, Any], width: int = 76) -> str:
    return "\n".join(line.plain for line in plan_lines(plan, width))


def test_a_plan_says_what_goes_where_how_fast_and_what_would_help() -> None:
    text = drawn(PLAN)
    for piece in (
        "k2 Q4_K_M: 578 GiB, of which 23,040 experts",
        "2 x RTX4090; 512 GiB RAM at 330.0 GB/s; drive 12.00 GB/s",
        "context of 8,192 tokens",
        "2.8 % of experts",
        "2,400 experts (60.0 GiB, 10.4 %) are read when they are needed",
        "9.50 to 14.2 tokens/s, limited by experts in RAM",
        "RAM of 640 GiB",
        "1.40 times: up to 19.0 tok/s",
    ):
        assert piece in text, piece


@pytest.mark.parametrize("width", [60, 76, 200])
def test_bars_fill_their_width_and_show_every_part(width: int) -> None:
    (bar,) = [line.plain for line in plan_lines(PLAN, width) if line.plain.startswith("card 0")]
    drawing = bar[8 : 8 + max(10, width - 34)]
    assert set(drawing) == set("█▓▒▚▁·")
    assert bar[8 + len(drawing)] == " "


def test_a_model_that_does_not_fit_says_what_is_missing() -> None:
    plan = copy.deepcopy(PLAN) | {
        "fits": False,
        "missing_bytes": 120 * GIB,
        "missing_where": "RAM",
        "decode": None,
        "prefill": None,
    }
    plan["steps"][0]["gain"] = None
    assert "It cannot run: 120 GiB are missing in RAM." in drawn(plan)
    assert "it runs: up to" in drawn(plan)
    assert verdict_of(plan) == "no, 120 GiB missing"
    assert verdict_of(PLAN) == "yes, 9.5 to 14.2 tok/s"


def test_a_plan_of_another_form_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(SettingsError, match="a form that this screen does not know"):
        drawn({"model": 1})


def test_the_next_plan_need_not_measure_the_machine_again() -> None:
    assert same_machine(PLAN) == ["--ram-bw", "330.000G/s", "--flops", "2000.0G/s", "--drive", "12.000G/s"]
    assert same_machine({}) == []


def test_the_arguments_are_those_of_the_choice() -> None:
    choice = ModelChoice(Path("/m/k2.gguf"), EngineOptions(context_tokens=4096))
    assert plan_arguments(choice) == ["plan", "/m/k2.gguf", "--ctx", "4096"]
    assert plan_arguments(ModelChoice())[2:] == ["--type", "Q4_K_M"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A script in the place of k2lite; what it is called with is in the file `calls`."""
    script = tmp_path / "fake.py"
    calls = tmp_path / "calls"
    script.write_text(
        "import json, sys\n"
        f"open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"answers = json.load(open({str(tmp_path / 'answers.json')!r}))\n"
        "answer = answers[sys.argv[1]]\n"
        "print(json.dumps(answer)) if isinstance(answer, dict) else sys.exit('k2lite: ' + answer)\n"
    )
    (tmp_path / "answers.json").write_text(
        json.dumps({"plan": PLAN, "inspect": {"totals": {"Q4_K": {"bytes": 9}, "F32": {"bytes": 1}}}})
    )
    monkeypatch.setattr(command_output, "_COMMAND", (sys.executable, str(script)))
    return tmp_path


async def test_the_plan_is_on_the_screen(command: Path) -> None:
    async with chat(FakeEngine(), size=(100, 40)) as screen:
        await screen.ready()
        await screen.pilot.press("f3")
        await screen.shows("k2 Q4_K_M: 578 GiB", "card 0", "experts in RAM")
        await screen.pilot.resize_terminal(80, 40)
        await screen.shows("card 0", "2.8 % of experts")
        await screen.pilot.press("escape")
        await screen.until(lambda: "card 0" not in screen.screen_text())


def test_what_would_help_stands_on_one_line_each_in_a_small_window() -> None:
    plan = copy.deepcopy(PLAN)
    plan["steps"][0]["change"] = "RAM of 19.5 GB/s (twice the channels)"
    (line,) = [line for line in drawn(plan, 72).splitlines() if "twice the channels" in line]
    assert len(line) <= 72


@pytest.mark.slow
async def test_the_finished_plan_of_the_demo_model_is_on_the_screen() -> None:
    async with chat(FakeEngine(), size=(80, 40)) as screen:
        await screen.ready()
        await screen.pilot.press("f3")
        await screen.until(lambda: "tokens/s, limited by" in screen.screen_text(), timeout_s=240)
        await screen.shows("100.0 % of experts", "RAM holds every expert", "What would help")
        assert "measuring" not in screen.screen_text()


async def test_what_the_command_complains_about_is_on_the_screen(command: Path) -> None:
    (command / "answers.json").write_text(json.dumps({"plan": "the file is [red]damaged[/red]"}))
    async with chat(FakeEngine()) as screen:
        await screen.ready()
        await screen.pilot.press("f3")
        await screen.shows("k2lite plan says: the file is [red]damaged[/red]")


async def test_models_of_a_folder_are_listed_with_type_and_plan_and_can_be_loaded(command: Path) -> None:
    (command / "small.gguf").write_bytes(b"x" * 1000)
    (command / "big-00001-of-00002.gguf").write_bytes(b"x" * 2000)
    (command / "big-00002-of-00002.gguf").write_bytes(b"x" * 3000)
    made: list[ModelChoice] = []
    engine = FakeEngine([Script(says("One.")), Script(says("Two."))])
    async with chat(engine, models_folder=command, size=(110, 30)) as screen:
        screen.app.slot._make = lambda choice: (made.append(choice), engine)[1]
        await screen.ask("before")
        await screen.pilot.press("f5")
        await screen.shows("small.gguf", "4.88 KiB in 2 files", "Q4_K", "yes, 9.5 to 14.2 tok/s", "built-in demo model")
        await screen.pilot.press("down", "down", "enter")
        await screen.until(lambda: not isinstance(screen.app.screen, ModelsScreen))
        await screen.until(lambda: bool(made) and not screen.app.busy)
        assert made == [ModelChoice(command / "small.gguf", EngineOptions())]
        await screen.ask("after")
        assert [message.content for message in engine.requests[1].messages] == ["before", "One.", "after"]
    calls = (command / "calls").read_text().splitlines()
    assert sum("--ram-bw" in call for call in calls) == 1  # the first plan measures, the second one is told


async def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    async with chat(FakeEngine(), models_folder=tmp_path / "absent", size=(110, 30)) as screen:
        await screen.ready()
        await screen.send("/model")
        await screen.shows("absent is no folder")


def test_shards_are_one_model_and_broken_links_are_none(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.gguf", "sub/a-00001-of-00002.gguf", "sub/a-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"xx")
    (tmp_path / "broken.gguf").symlink_to(tmp_path / "nowhere")
    assert [(file.path.name, file.size_bytes, file.shards) for file in model_files(tmp_path)] == [
        ("b.gguf", 2, 1),
        ("a-00001-of-00002.gguf", 4, 2),
    ]
