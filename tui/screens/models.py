"""The model files of a folder: size, type, whether and how fast they would run here."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes
from quant.errors import K2Error
from tui.command_output import Record, plan_arguments, run_json, same_machine, weight_type
from tui.engine_slot import ModelChoice
from tui.model_files import ModelFile, model_files

DEMO_KEY = "the built-in demo model"


class ModelsScreen(ModalScreen[ModelChoice | None]):
    """Gives back the chosen model. Types and plans are looked up one after another while the list is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+f", "focus_folder", "Other folder"),
    ]

    def __init__(self, folder: Path, current: ModelChoice) -> None:
        super().__init__()
        self._folder, self._current = folder, current
        self._files: dict[str, ModelFile] = {}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Input(str(self._folder), placeholder="folder with GGUF files", id="folder", compact=True)
            table: DataTable[Text] = DataTable(cursor_type="row", id="models")
            yield table
            yield Static(id="summary", markup=False)
            yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for label, key in (("model", "name"), ("size", "size"), ("type", "type"), ("here", "here")):
            table.add_column(label, key=key)
        self._search()
        table.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._folder = Path(event.value).expanduser()
        self._search()
        self.query_one(DataTable).focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        file = self._files.get(str(event.row_key.value))
        self.dismiss(ModelChoice(file.path if file is not None else None, self._current.options))

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_focus_folder(self) -> None:
        self.query_one("#folder").focus()

    def _search(self) -> None:
        self.run_worker(self._fill(), exclusive=True)

    async def _fill(self) -> None:
        table = self.query_one(DataTable)
        table.clear()
        self._files = {}
        table.add_row(Text(DEMO_KEY), Text("23 MB"), Text("Q4_K_M"), Text("yes"), key=DEMO_KEY)
        try:
            files = await asyncio.to_thread(model_files, self._folder)
        except K2Error as error:
            self._say(str(error))
            return
        for file in files:
            key = str(file.path)
            self._files[key] = file
            size = format_bytes(file.size_bytes) + (f" in {file.shards} files" if file.shards > 1 else "")
            name = one_line(file.path.name) + (" (loaded)" if file.path == self._current.path else "")
            table.add_row(Text(name), Text(size), Text("…"), Text("…"), key=key)
        count = "no model file" if not files else "1 model file" if len(files) == 1 else f"{len(files)} model files"
        folder = one_line(self._folder.name) or "this folder"
        self._say(f"{count} in {folder}. Enter loads one; /plan FILE shows its whole plan.")
        await self._look_up(files)

    async def _look_up(self, files: list[ModelFile]) -> None:
        machine: list[str] = []
        for file in files:
            await self._cell(file, "type", weight_type(file.path))
            plan = await self._plan(file, machine)
            machine = machine or same_machine(plan or {})

    async def _plan(self, file: ModelFile, machine: list[str]) -> Record | None:
        choice = ModelChoice(file.path, self._current.options)
        plan: Record | None = None

        async def verdict() -> str:
            nonlocal plan
            plan = await run_json([*plan_arguments(choice), *machine])
            return verdict_of(plan)

        await self._cell(file, "here", verdict())
        return plan

    async def _cell(self, file: ModelFile, column: str, work: Awaitable[str]) -> None:
        try:
            text = await work
        except K2Error as error:
            text = "?"
            self._say(one_line(str(error)))
        table = self.query_one(DataTable)
        if str(file.path) in self._files:
            table.update_cell(str(file.path), column, Text(text), update_width=True)

    def _say(self, text: str) -> None:
        self.query_one("#summary", Static).update(one_line(text))


def verdict_of(plan: Record) -> str:
    """As in "yes, 4.1 to 6.0 tok/s" or "no, 120 GiB missing"."""
    if not plan.get("fits"):
        return f"no, {format_bytes(plan.get('missing_bytes') or 0)} missing"
    try:
        return f"yes, {plan['decode']['bad']['tokens_per_s']:.3g} to {plan['decode']['good']['tokens_per_s']:.3g} tok/s"
    except (KeyError, TypeError):
        return "yes"
