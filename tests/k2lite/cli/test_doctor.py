"""`k2lite doctor`."""

import json

import pytest

from k2lite.doctor import host
from k2lite.doctor.finding import Finding
from quant.errors import LibraryError
from tests.k2lite.cli.conftest import CommandLine


def test_every_finding_has_a_line_and_hints_say_what_to_do(k2lite: CommandLine) -> None:
    found = k2lite("doctor", "--no-measure")
    assert found.status == 0
    lines = found.out.splitlines()
    assert all(line.startswith(("ok ", "hint ", " " * 25)) for line in lines)
    for name in ("system", "processor", "native code", "RAM", "huge pages", "drive", "torch", "cards", "gguf"):
        assert any(line[7:].startswith(name) for line in lines), name
    hints = [number for number, line in enumerate(lines) if line.startswith("hint")]
    assert all(lines[number + 1].startswith(" " * 25) for number in hints)


def test_json_has_the_same(k2lite: CommandLine) -> None:
    record = json.loads(k2lite("doctor", "--no-measure", "--json").out)
    assert record["ok"] is True
    assert {finding["name"] for finding in record["findings"]} > {"RAM", "torch", "llama-cpp-python"}
    assert all(bool(finding["advice"]) == (finding["state"] != "ok") for finding in record["findings"])


def test_what_keeps_k2lite_from_running_is_status_1(k2lite: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LibraryError("libk2quant.so is missing: build it")

    monkeypatch.setattr(host, "load_native", missing)
    found = k2lite("doctor", "--no-measure")
    assert found.status == 1
    assert "FAILS  native code" in found.out
    assert "libk2quant.so is missing: build it" in found.out
    assert found.out.splitlines()[-1].endswith("mended: native code")


def test_advice_belongs_to_what_is_not_ok() -> None:
    for state, advice in (("ok", "do it"), ("hint", "")):
        with pytest.raises(ValueError, match="advice"):
            Finding("x", state, "y", advice)  # type: ignore[arg-type]
