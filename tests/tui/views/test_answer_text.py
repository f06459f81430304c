"""A long answer in several widgets looks like one."""

from textual.app import App, ComposeResult
from textual.widget import Widget
from textual.widgets._markdown import MarkdownFence

from tui.views.answer_text import AnswerText
from tui.views.flat_list import FlatMarkdown

PARAGRAPH = "Experts that are used often stay on a **card**.\n\n"
FENCE = "```python\nx = 1\n\ny = 2\n```\n\n"


class Alone(App[None]):
    def compose(self) -> ComposeResult:
        yield AnswerText()


class InOnePiece(App[None]):
    def compose(self) -> ComposeResult:
        yield FlatMarkdown(self.text)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


def screen_lines(app: App[None]) -> list[str]:
    lines = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip).rstrip() for strip in lines]


async def shown(pieces: list[str]) -> tuple[list[str], str, list[list[Widget]]]:
    """The lines on a screen that is high enough for all, the text, and the blocks of every widget."""
    app = Alone()
    async with app.run_test(size=(60, 400)) as pilot:
        text = app.query_one(AnswerText)
        for piece in pieces:
            await text.append(piece)
        await pilot.pause()
        return screen_lines(app), text.source, [list(part.children) for part in text.parts]


async def shown_in_one_piece(text: str) -> list[str]:
    app = InOnePiece(text)
    async with app.run_test(size=(60, 400)) as pilot:
        await pilot.pause()
        return screen_lines(app)


async def test_it_looks_like_one_text_in_however_many_widgets() -> None:
    text = (
        PARAGRAPH * 30
        + FENCE
        + "# Heading\n\n"
        + PARAGRAPH * 3
        + "- a\n\n- b\n\n"
        + PARAGRAPH * 30
        + FENCE * 30
        + "End.\n"
    )
    lines, source, parts = await shown([text[i : i + 37] for i in range(0, len(text), 37)])
    assert len(parts) > 2
    assert source == text
    assert lines == await shown_in_one_piece(text)


async def test_code_stays_in_its_frame() -> None:
    text = PARAGRAPH * 40 + "```python\nx = 1\n\ny = 2\n\nz = 3\n```\n"
    _, source, parts = await shown(
        [*[PARAGRAPH] * 40, "```python\n", "x = 1\n", "\n", "y = 2\n", "\n", "z = 3\n", "```\n"]
    )
    fences = [block for part in parts for block in part if isinstance(block, MarkdownFence)]
    assert [fence.code for fence in fences] == ["x = 1\n\ny = 2\n\nz = 3"]
    assert source == text


async def test_long_code_goes_on_in_another_widget_and_looks_like_one_block() -> None:
    code = "".join(f"value_{number} = {number}\nother_{number} = 1\n\n" for number in range(50))
    text = f"See:\n\n````python\n{code}```\n````\n\nEnd.\n"
    lines, source, parts = await shown(text.splitlines(keepends=True))
    assert len(parts) > 2
    assert source == text
    assert lines == await shown_in_one_piece(text)


async def test_no_widget_gets_many_blocks() -> None:
    _, _, parts = await shown([PARAGRAPH] * 100)
    assert max(map(len, parts)) <= 30
