"""Things that hold files open until they are closed."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Used in a `with` statement it is closed at the end of the block, however that ends."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
