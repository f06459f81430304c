"""Errors meant for users: one line that says what failed, with the numbers, and then what to do."""


class K2Error(Exception):
    """Base of every error that the command line and the screen show as one line instead of a traceback."""


class CheckpointError(K2Error):
    """A Hugging Face checkpoint folder is damaged, incomplete or contradicts its config.json."""


class GgufError(K2Error):
    """A GGUF file is damaged, or holds something its own header does not allow."""


class UnsupportedError(K2Error):
    """The input asks for something that k2lite does not implement; the message names the field."""


class EncodeError(K2Error):
    """A tensor cannot be written in the type that was asked for (inf or NaN, or a row no block fits)."""


class OutputError(K2Error):
    """The output cannot be written: the path exists, the folder is missing, the disk is full."""


class RequestError(K2Error):
    """A request cannot be served as asked (prompt longer than the context, sampling out of range)."""


class ContextFullError(RequestError):
    """The prompt alone fills the context: it must become shorter, or the conversation begin anew."""


class EngineError(K2Error):
    """The engine stopped working: its process died or the model could not be loaded."""


class LibraryError(K2Error):
    """A native library is missing, or is not laid out as the one k2lite was written for."""


class ImatrixError(K2Error):
    """An importance matrix is damaged, or does not belong to what it is used with."""


class StoreError(K2Error):
    """An expert cannot be brought from the drive: a read failed, or the file is no longer what it was."""
