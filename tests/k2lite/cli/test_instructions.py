"""K2LITE_ISA: another instruction set than the machine's best, for comparisons."""

import pytest

from quant.native_library import ISAS, load_native
from tests.k2lite.cli.conftest import CommandLine


def test_the_variable_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch, k2lite: CommandLine) -> None:
    monkeypatch.setattr(load_native(), "isa", load_native().isa)  # put back afterwards
    monkeypatch.setenv("K2LITE_ISA", "portable")
    k2lite("inspect", "no-such-file")
    assert load_native().isa == "portable"


def test_a_set_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, k2lite: CommandLine) -> None:
    monkeypatch.setenv("K2LITE_ISA", "sse9")
    output = k2lite("inspect", "no-such-file")
    assert output.status == 1
    assert output.err == f"k2lite: unknown instruction set 'sse9': known are {', '.join(ISAS)}\n"
