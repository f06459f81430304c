"""The simulator's comparison sees what a run does, wherever the experts are multiplied."""

from pathlib import Path

import pytest
import torch

from benchmarks.simulator import compared, make_slice
from benchmarks.simulator_settings import SETTINGS, Setting
from k2lite.synth.shapes import Changes

NARROW = Changes(layers=4, experts=48, hidden=1024, expert_width=1024, dense_width=1024, vocab=2048)
TOKENS = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slice(tmp_path_factory.mktemp("slice"), NARROW)


@pytest.mark.parametrize(
    "setting",
    [SETTINGS[5], *(pytest.param(SETTINGS[number], marks=pytest.mark.slow) for number in (1, 7))],
    ids=lambda setting: setting.name,
)
def test_a_setting_is_measured_and_predicted(setting: Setting, file: Path, tmp_path: Path) -> None:
    row = compared(setting, file, tmp_path, torch.arange(TOKENS))
    assert 0 < row["expert_ms"] < 50
    assert row["measured_tokens_per_s"] > 0 and row["predicted_tokens_per_s"] > 0
    on_drive = 1 - setting.ram - sum(setting.cards)
    assert row["measured_drive_share"] == pytest.approx(max(0, on_drive), abs=0.25)
    assert (row["predicted_drive_share"] > 0) == (on_drive > 0)
