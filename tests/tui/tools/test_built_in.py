"""What the built-in tools give back, and what they refuse."""

import os
import re
from pathlib import Path

import pytest

from k2lite.events import ToolCall
from tui.errors import ToolError
from tui.tools.built_in import MAX_FILE_BYTES, built_in_tools, get_time, list_folder, read_file
from tui.tools.tool import MAX_RESULT_CHARACTERS, Tool, Toolbox


async def run(name: str, arguments: str) -> str:
    box = Toolbox(built_in_tools())
    box.offered = {tool.name for tool in box.tools}
    return await box.run(ToolCall(f"functions.{name}:0", name, arguments))


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("héllo")
    assert read_file({"path": str(tmp_path / "a.txt")}) == "héllo"
    (tmp_path / "long.txt").write_text("x" * (MAX_FILE_BYTES + 5))
    text = read_file({"path": str(tmp_path / "long.txt")})
    assert text.startswith("x" * 100)
    assert text.endswith(f"(the first {MAX_FILE_BYTES:,} of {MAX_FILE_BYTES + 5:,} bytes)")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("absent", "No such file"), (".", "not a regular file"), ("binary", "binary"), ("pipe", "not a regular file")],
)
def test_what_is_no_text_file_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "binary").write_bytes(b"a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ToolError, match=complaint):
        read_file({"path": str(tmp_path / name)})


def test_a_folder_is_listed_with_its_folders_marked(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").touch()
    assert list_folder({"path": str(tmp_path)}) == "a.txt\nb/"
    assert list_folder({"path": str(tmp_path / "b")}) == "(empty)"
    with pytest.raises(ToolError, match="cannot list"):
        list_folder({"path": str(tmp_path / "c")})


def test_the_time_of_a_city() -> None:
    assert re.fullmatch(r"\d\d:\d\d", get_time({"city": "New York"}))
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", get_time({}))
    with pytest.raises(ToolError, match="no time zone is named after Nowhere"):
        get_time({"city": "Nowhere"})


async def test_an_expression_is_evaluated() -> None:
    assert await run("run_python", '{"expression": "sum(range(10)) + math.floor(2.5)"}') == "47"
    assert await run("run_python", '{"expression": "1/0"}') == "error: ZeroDivisionError: division by zero"
    assert (await run("run_python", '{"expression": "import os"}')).startswith("error: SyntaxError")


async def test_an_expression_can_neither_write_files_nor_fill_the_memory(tmp_path: Path) -> None:
    target = tmp_path / "written"
    result = await run("run_python", f"{{\"expression\": \"open({str(target)!r}, 'w').write('x' * 9999)\"}}")
    assert not target.exists() or target.stat().st_size == 0
    assert "9999" not in result
    assert "512 MiB" in await run("run_python", '{"expression": "len(bytearray(2**30))"}')


async def test_an_expression_sees_no_variables_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "xyzzy")
    assert "xyzzy" not in await run("run_python", '{"expression": "__import__(\'os\').environ"}')


@pytest.mark.slow
async def test_an_expression_that_never_ends_is_ended() -> None:
    assert "computing" in await run("run_python", '{"expression": "9**9**9"}')
    assert "10 seconds" in await run("run_python", '{"expression": "__import__(\'time\').sleep(60)"}')


async def test_what_is_wrong_with_a_call_is_told_to_the_model() -> None:
    assert (
        await run("nothing", "{}")
        == "error: there is no tool nothing; there are: get_time, list_folder, read_file, run_python"
    )
    assert (await run("read_file", "{")).startswith("error: the arguments are not JSON")
    assert await run("read_file", "[]") == "error: the arguments are a list: they must be an object"
    assert await run("read_file", "{}") == "error: the argument path is missing or no text"


async def test_a_long_result_is_cut() -> None:
    async def long(arguments: object) -> str:
        return "x" * (MAX_RESULT_CHARACTERS + 1)

    box = Toolbox([Tool("long", "", {}, long)])
    box.offered = {"long"}
    result = await box.run(ToolCall("functions.long:0", "long", ""))
    assert result.endswith(f"(cut off: {MAX_RESULT_CHARACTERS + 1:,} characters in all)")


async def test_a_tool_that_is_not_offered_does_not_run() -> None:
    box = Toolbox(built_in_tools())
    assert (await box.run(ToolCall("functions.get_time:0", "get_time", "{}"))).startswith("error: there is no tool")


def test_two_tools_of_one_name_are_refused() -> None:
    box = Toolbox(built_in_tools())
    with pytest.raises(ToolError, match="two tools are called read_file"):
        box.add(Tool("read_file", "", {}, built_in_tools()[0].run, source="server"))
