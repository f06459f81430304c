"""The keys of the chat. Every one has an id by which `[keys]` in the settings file and --key give it another key."""

from collections.abc import Iterable, Mapping

from textual.binding import Binding

from tui.errors import SettingsError

APP_BINDINGS = (
    Binding("escape", "escape", "Stop", id="app.stop"),
    Binding("ctrl+n", "command('new')", "New", id="app.new"),
    Binding("ctrl+o", "command('chats')", "Chats", id="app.chats"),
    Binding("f1", "command('help')", "Help", id="app.help"),
    Binding("f2", "command('experts')", "Experts", id="app.experts"),
    Binding("f3", "command('plan')", "Plan", id="app.plan", show=False),
    Binding("f4", "command('settings')", "Settings", id="app.settings"),
    Binding("f5", "command('model')", "Model", id="app.model", show=False),
    Binding("ctrl+r", "command('retry')", "Ask again", id="app.retry", show=False),
    Binding("ctrl+t", "command('think')", "Thinking", id="app.think", show=False),
    Binding("ctrl+g", "command('editor')", "Editor", id="app.editor", show=False),
    Binding("ctrl+l", "command('prompts')", "Prompts", id="app.prompts", show=False),
    Binding("ctrl+up,alt+up", "choose_message", "Messages", id="app.messages", show=False),
    Binding("ctrl+c", "copy_or_quit", "Quit", priority=True, show=False, id="app.copy"),
    Binding("ctrl+q", "quit", "Quit", priority=True, show=False, id="app.quit"),
    Binding("pageup", "scroll_log(-1)", "Page up", show=False, id="app.page_up"),
    Binding("pagedown", "scroll_log(1)", "Page down", show=False, id="app.page_down"),
)


def all_bindings() -> list[Binding]:
    """Every binding that can be given another key."""
    from tui.prompt import Prompt
    from tui.views.message_view import MessageView
    from tui.views.tool_block import ToolBlock

    classes = (Prompt, MessageView, ToolBlock)
    inner = [binding for kind in classes for binding in kind.BINDINGS if isinstance(binding, Binding) and binding.id]
    return [*APP_BINDINGS, *inner]


def checked_keymap(keys: Mapping[str, str]) -> dict[str, str]:
    """The keymap as Textual takes it. Raises SettingsError for an id that no binding has, or a key for two things."""
    known = {binding.id: binding for binding in all_bindings()}
    for name in keys:
        if name not in known:
            raise SettingsError(f"there is no key for {name!r}; there are: {', '.join(sorted(filter(None, known)))}")
    for own in (APP_BINDINGS,):
        _check_clashes(own, keys)
    return dict(keys)


def _check_clashes(bindings: Iterable[Binding], keys: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for binding in bindings:
        for key in keys.get(binding.id or "", binding.key).split(","):
            if key in taken:
                raise SettingsError(f"the key {key} is wanted for {taken[key]} and for {binding.id}")
            taken[key] = binding.id or ""
