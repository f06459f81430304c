"""One thing that was looked at."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "hint", "fails"]


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "hint" (works, but could do better) or "fails" (k2lite cannot run). `advice` says what to do."""

    name: str
    state: State
    value: str
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.state == "ok") == bool(self.advice):
            raise ValueError(f"{self.name}: advice belongs to what is not ok, and only there")
