"""The command line of the chat and its settings file."""

from pathlib import Path

import pytest

from k2lite.cli.main import build_parser
from k2lite.cli.options import UsageError
from tui.command import _without_option, execute, make_launch
from tui.conversation import ChatSettings
from tui.launch import Launch
from tui.tools.mcp_server import McpServer


def launch(*arguments: str) -> Launch:
    options = build_parser(["chat", *arguments]).parse_args(["chat", *arguments])
    return make_launch(options)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("K2LITE_HOME", str(tmp_path))
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "chat.toml"


def test_without_options_everything_is_the_usual(settings: Path) -> None:
    started = launch()
    assert started.settings == ChatSettings()
    assert started.database == settings.parent.parent / "data" / "chats.db"
    assert (started.resume, started.theme, started.tools, started.tool_rounds) == (None, "textual-dark", (), 8)


def test_every_option_can_stand_in_the_file(settings: Path) -> None:
    settings.write_text(
        'model = "k2.gguf"\nctx = "32k"\nthreads = 3\nkernels = "reference"\nmax_tokens = 100\ntemperature = 0.25\n'
        'top-p = 0.5\ntop-k = 7\nmin-p = 0.1\nrepeat-penalty = 1.1\nseed = 5\nsystem = "Be kind."\nthinking = true\n'
        'theme = "nord"\nmodels = "/models"\nexperts = true\ndatabase = "/tmp/x.db"\n'
        'continue = true\ntools = ["read_file", "get_time"]\n'
        'allow-tool = "get_time"\ntool-rounds = 3\n'
        '[keys]\n"app.experts" = "f8"\n[prompts]\n"Mine" = "Do it."\n'
        '[mcp.files]\ncommand = ["server", "/data"]\nenv = {A = "1"}\n'
    )
    started = launch()
    assert started.choice.path == Path("k2.gguf")
    assert (started.choice.options.context_tokens, started.choice.options.threads) == (32 * 1024, 3)
    assert started.choice.options.kernels == "reference"
    sampling = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "repeat_penalty": 1.1}
    assert started.settings == ChatSettings("Be kind.", True, 100, 5, sampling)
    assert (started.theme, started.models_folder, started.experts) == ("nord", Path("/models"), True)
    assert (started.database, started.resume) == (Path("/tmp/x.db"), "last")
    assert (started.tools, started.allowed, started.tool_rounds) == (("read_file", "get_time"), ("get_time",), 3)
    assert started.mcp_servers == (McpServer("files", ("server", "/data"), {"A": "1"}),)
    assert (started.keys, started.prompts) == ({"app.experts": "f8"}, {"Mine": "Do it."})


def test_the_command_line_comes_before_the_variable_before_the_file(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text("ctx = 100\nthreads = 1\ntop-k = 1\n")
    monkeypatch.setenv("K2LITE_THREADS", "2")
    monkeypatch.setenv("K2LITE_TOP_K", "2")
    started = launch("--top-k", "3")
    assert (started.choice.options.context_tokens, started.choice.options.threads) == (100, 2)
    assert started.settings.sampling == {"top_k": 3}


def test_another_file_can_be_named(settings: Path, tmp_path: Path) -> None:
    settings.write_text("seed = 1\n")
    (tmp_path / "other.toml").write_text("seed = 2\n")
    assert launch("--config", str(tmp_path / "other.toml")).settings.seed == 2
    assert launch(f"--config={tmp_path}/other.toml").settings.seed == 2
    assert launch().settings.seed == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sed = 1", "has 'sed', which is no option; there are: \\[keys\\], \\[mcp\\], .*seed"),
        ("seed = -1", "seed is not usable"),
        ("ctx = [", "is not TOML"),
        ("experts = 1", "experts is 1, but must be true or false"),
        ('thinking = "maybe"', "must be one of on, off"),
        ("temperature = 1979-05-27", "is neither text nor a number"),
        ("keys = 3", "\\[keys\\] must hold texts"),
        ('[keys]\n"app.nothing" = "f8"', "no key for 'app.nothing'"),
        ("[mcp.x]\ncommand = 3", "needs command"),
        ('[mcp.x]\ncommand = ["a"]\nurl = "b"', "has url; it may have command and env"),
        ('theme = "pink"', "no theme 'pink'; there are"),
    ],
)
def test_what_the_file_has_wrong_is_told_with_its_place(settings: Path, content: str, complaint: str) -> None:
    settings.write_text(content)
    with pytest.raises(UsageError, match=complaint):
        launch()


def test_a_file_that_is_not_there_is_told(settings: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the settings file"):
        launch("--config", "/no/such/file.toml")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-save", "--continue"], "--continue cannot take effect"),
        (["--open", "3", "--continue"], "--open names another chat"),
        (["--web-port", "9000"], "--web-port cannot take effect without --web"),
        (["--web", "--web-port", "90000"], "at most 65535"),
        (["--allow-tool", "get_time"], "--tools offers none"),
    ],
)
def test_options_that_cannot_take_effect_are_refused(settings: Path, arguments: list[str], complaint: str) -> None:
    options = build_parser(["chat", *arguments]).parse_args(["chat", *arguments])
    with pytest.raises(UsageError, match=complaint):
        execute(options)


@pytest.mark.parametrize(
    "arguments",
    [["--key", "f8"], ["--mcp", "prog"], ["--mcp", "a='"], ["--open", "x"], ["--tool-rounds", "0"]],
)
def test_wrong_values_are_refused(settings: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(*arguments)
    assert ended.value.code == 2


def test_two_servers_of_one_name_are_refused(settings: Path) -> None:
    with pytest.raises(UsageError, match="two MCP servers are called a"):
        launch("--mcp", "a=x", "--mcp", "a=y")


def test_keys_and_servers_of_the_command_line_join_those_of_the_file(settings: Path) -> None:
    settings.write_text('[keys]\n"app.experts" = "f8"\n[mcp.a]\ncommand = ["x"]\n')
    started = launch("--key", "app.plan=f9", "--mcp", "b=y 'two words'")
    assert started.keys == {"app.experts": "f8", "app.plan": "f9"}
    assert [server.command for server in started.mcp_servers] == [("x",), ("y", "two words")]


def test_the_browsers_chat_gets_the_same_options_but_for_the_port() -> None:
    assert _without_option(["chat", "--web-port", "9", "--ctx", "1k", "--web-port=9"], "--web-port") == [
        "chat",
        "--ctx",
        "1k",
    ]
