"""What can go wrong around a chat, each with what to do about it."""

from quant.errors import K2Error


class SessionError(K2Error):
    """Conversations cannot be saved, read, exported or imported."""


class ToolError(K2Error):
    """A tool could not be run; the text goes back to the model as the tool's result."""


class AttachmentError(K2Error):
    """A file named in a prompt cannot be attached."""


class SettingsError(K2Error):
    """A setting has a value that cannot be used, or cannot take effect."""
