"""The chat in a browser: who can connect, what is started for a tab."""

import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from k2lite.cli.main import main
from quant.errors import LibraryError
from tui.web import HOST, serve


class FakeServer:
    made: "list[dict[str, Any]]" = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, command: str, **options: Any) -> None:
        self.made.append({"command": command, **options})

    def serve(self) -> None:
        self.made[-1]["served"] = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[FakeServer]:
    package, module = ModuleType("textual_serve"), ModuleType("textual_serve.server")
    module.Server = FakeServer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "textual_serve", package)
    monkeypatch.setitem(sys.modules, "textual_serve.server", module)
    FakeServer.made = []
    return FakeServer


def test_it_listens_on_this_machine_only(server: type[FakeServer]) -> None:
    assert serve("k2lite chat", 9000) == 0
    (made,) = server.made
    assert (made["host"], made["port"], made["served"]) == ("127.0.0.1", 9000, True)


def test_a_tab_gets_the_chat_with_the_same_options(
    server: type[FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2LITE_HOME", str(tmp_path))
    assert main(["chat", "--web", "--web-port", "9000", "--system", "Be kind; really"]) == 0
    words = shlex.split(server.made[0]["command"])
    assert words[0] == sys.executable
    assert words[-3:] == ["chat", "--system", "Be kind; really"]


def test_wrong_options_are_told_before_anything_is_served(
    server: type[FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("K2LITE_HOME", str(tmp_path))
    assert main(["chat", "--web", "--theme", "pink"]) == 2
    assert "no theme 'pink'" in capsys.readouterr().err
    assert server.made == []


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(LibraryError, match=r"pip install 'k2lite\[web\]'"):
        serve("k2lite chat", 9000)


@pytest.mark.slow
def test_a_real_server_answers_on_the_loopback_address() -> None:
    pytest.importorskip("textual_serve", reason="the optional package textual-serve is not installed")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    code = f"from tui.web import serve; serve('true', {port})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = _page(f"http://{HOST}:{port}/")
        listening = [c.laddr.ip for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
    finally:
        process.kill()
        process.wait()
    assert "k2lite chat" in page
    assert listening == [HOST]


def _page(url: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
