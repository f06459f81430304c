"""Recording which experts each generated token went to, for simulations: one JSON object per line and token.

{"tok": 17, "layers": [[e, e, ...], ...]}: the token's number, and for each layer with experts those that were chosen,
in rising order. Tokens of prompts are left out: they come in chunks, not one after the other.
"""

import json
import os
import threading
from pathlib import Path

from torch import Tensor

from offload.experts import Experts
from offload.pool_device import Share
from offload.state import ExpertsState
from quant.errors import OutputError
from quant.kernels import ExpertWeights


class RecordingExperts:
    """Passes everything on to `inner`, which it owns, and writes down who was asked.

    The file appears under its name when this is closed.
    """

    def __init__(self, inner: Experts, layers: list[int], path: Path) -> None:
        """Raises OutputError when the file exists or cannot be written."""
        self._inner, self._layers, self._path = inner, layers, path
        self._part = path.with_name(path.name + ".part")
        self._chosen: dict[int, list[int]] = {}
        self._tokens = 0
        if os.path.lexists(path):
            raise OutputError(f"{path} exists already: choose another name for --record-routing, or delete it")
        try:
            self._file = self._part.open("w", encoding="ascii")
        except OSError as error:
            raise OutputError(f"cannot write {self._part}: {error.strerror}") from error

    @property
    def prefill_tokens(self) -> int | None:
        """See Experts.prefill_tokens."""
        return self._inner.prefill_tokens

    def share_of(self, layer: int) -> Share | None:
        """See Experts.share_of."""
        return self._inner.share_of(layer)

    def forward(
        self,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None = None,
        beside: bool = False,
    ) -> Tensor:
        """See Experts.forward. Raises OutputError when the disk is full."""
        y = self._inner.forward(layer, x, ids, weights, shared, beside)
        if len(x) == 1:
            self._chosen[layer] = sorted(ids[0].tolist())
            if layer == self._layers[-1]:
                self._write()
        return y

    def prepare(self, tokens: int) -> None:
        """See Experts.prepare."""
        self._inner.prepare(tokens)

    def announce(self, layer: int, stream: Tensor) -> None:
        """See Experts.announce."""
        self._inner.announce(layer, stream)

    def listen(self, stop: threading.Event | None) -> None:
        """See Experts.listen."""
        self._inner.listen(stop)

    def counters(self) -> dict[str, int]:
        """See Experts.counters."""
        return self._inner.counters()

    def state(self) -> ExpertsState:
        """See Experts.state."""
        return self._inner.state()

    def settle(self) -> None:
        """See Experts.settle."""
        self._inner.settle()

    def close(self) -> None:
        """See Experts.close. Raises OutputError when the recording cannot be finished."""
        self._inner.close()
        if self._file.closed:
            return
        try:
            self._file.close()
            self._part.rename(self._path)
        except OSError as error:
            raise self._unwritten(error) from error

    def _write(self) -> None:
        record = {"tok": self._tokens, "layers": [self._chosen[layer] for layer in self._layers]}
        self._tokens += 1
        try:
            self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self._path}: {error.strerror}: free some space or leave out --record-routing"
        )
