"""What verification finds out: figures for the report, or the error that names the first wrong byte."""

from dataclasses import dataclass

from quant.convert.job_types import Stretch
from quant.errors import K2Error


class VerificationError(K2Error):
    """What was written is not what was meant.

    `stretch` is the first one that is wrong: with the journal cut back to before it, the next run writes it again.
    None means that writing again would not help (the type cannot hold these weights, or the layout is wrong).
    """

    def __init__(self, message: str, stretch: Stretch | None = None) -> None:
        super().__init__(message)
        self.stretch = stretch


@dataclass(frozen=True)
class FileDigest:
    """A file as it was read back: its name, length and SHA-256, which `sha256sum` prints too."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class TensorErrors:
    """How far a tensor is from its source, from a sample of `rows` rows.

    `rmse` is in units of the weights, the relative ones are over the root mean square of the source;
    `weighted_relative_rmse` weighs by importance and is None without one. `beyond` rows have a larger error than is
    usual for the type, though they are what its encoder makes of them.
    """

    rows: int
    rmse: float
    relative_rmse: float
    weighted_relative_rmse: float | None
    beyond: int


@dataclass(frozen=True)
class Verification:
    """Everything was as it should be. `tensors` holds those of which rows were compared with the source.

    `witnesses` are the packages of others that opened the files, with their versions.
    """

    files: tuple[FileDigest, ...]
    tensors: dict[str, TensorErrors]
    stretches: int
    witnesses: tuple[str, ...]
