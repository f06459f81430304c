"""The commands of the chat, by what they are about. Importing this package fills the registry."""

from tui.commands import appearance, chats, machine, messages, settings, tools
from tui.commands.registry import COMMANDS, Command

__all__ = ["COMMANDS", "Command", "appearance", "chats", "machine", "messages", "settings", "tools"]
