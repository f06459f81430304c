"""The panel beside the chat."""

from textual.containers import Vertical

from k2lite.events import ExpertReport


class ExpertPanel(Vertical):
    """Shows the newest report while it is displayed."""

    def take(self, report: ExpertReport) -> None:
        """A newer report."""

    def clear(self) -> None:
        """Another model: nothing is known of it yet."""
