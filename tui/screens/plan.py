"""What goes where on this machine, before it is loaded."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import Static

from quant.errors import K2Error
from tui.command_output import Record, plan_arguments, run_json
from tui.engine_slot import ModelChoice
from tui.plan_picture import plan_lines


class PlanScreen(ModalScreen[None]):
    """Runs `k2lite plan` for the model; what it says, also when it fails, is on the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f3,q", "dismiss", "Back")]

    def __init__(self, choice: ModelChoice) -> None:
        super().__init__()
        self._choice = choice
        self._plan: Record | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog large"):
            yield Static("measuring this machine, a few seconds …", id="plan", markup=False)
            yield Static("Escape: back", classes="hint", markup=False)

    def on_mount(self) -> None:
        self.run_worker(self._run())

    def on_resize(self, event: Resize) -> None:
        self._draw()

    async def _run(self) -> None:
        try:
            self._plan = await run_json(plan_arguments(self._choice))
        except K2Error as error:
            self.query_one("#plan", Static).update(Content(str(error)))
            return
        self._draw()

    def _draw(self) -> None:
        if self._plan is None:
            return
        field = self.query_one("#plan", Static)
        try:
            field.update(Content("\n").join(plan_lines(self._plan, max(40, field.size.width))))
        except K2Error as error:
            field.update(Content(str(error)))
