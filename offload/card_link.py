"""The way between host and card: pinned staging, a stream of its own for what goes on in the background.

On a device that is host memory every copy is done when it was asked for.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

# Of a background copy that a hand-over may have to wait for: 2 MiB take 0.1 ms of a link of 25 GB/s.
_CHUNK_BYTES = 2 << 20
# So many rows that hardly any expert has only a few of them, which are multiplied without such rounding.
_MANY_ROWS = 1024


class CardLink:
    """Copies for one device. `upload` and `download` belong to one thread, since they share staging."""

    def __init__(self, device: torch.device, largest_bytes: int) -> None:
        """`largest_bytes` is the most that one `upload` copies."""
        self._device = device
        self._is_card = device.type == "cuda"
        if self._is_card:
            self._background = torch.cuda.Stream(device, priority=0)  # 0 is the lowest
            self._compute = torch.cuda.Stream(device, priority=-1)
            chunk = min(_CHUNK_BYTES, max(1, largest_bytes))
            self._staging = [torch.empty(chunk, dtype=torch.uint8, pin_memory=True) for _ in range(2)]

    def upload(self, parts: Sequence[tuple[np.ndarray, Tensor]]) -> None:
        """Copy arrays to places on the device, in small pieces. They are there when this returns."""
        pieces = ((_tensor(source), target) for source, target in parts)
        self._copy(pieces, to_card=True)

    def download(self, parts: Sequence[tuple[Tensor, np.ndarray]]) -> None:
        """Copy places on the device to arrays. The bytes are there when this returns."""
        pieces = ((source, torch.from_numpy(target)) for source, target in parts)
        self._copy(pieces, to_card=False)

    @contextmanager
    def copying(self) -> Iterator[None]:
        """What is queued in this block goes among this link's copies, behind what the device has been asked for by now,
        and is done when the block ends."""
        if not self._is_card:
            yield
            return
        # Who had a slot before may still be multiplied: nobody waits for a card to end a token's last layer.
        self._background.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), torch.cuda.stream(self._background):
            yield
            self._background.synchronize()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """What is queued in this block goes behind what was queued on the device before, and beside other copies."""
        if not self._is_card:
            yield
            return
        with torch.cuda.device(self._device):
            self._compute.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._compute):
                yield

    def given(self, x: Tensor) -> Tensor:
        """A few values of the host, on the device."""
        return x.pin_memory().to(self._device, non_blocking=True) if self._is_card else x

    def given_rows(self, x: Tensor) -> Tensor:
        """Activations [T, n] f32 of the host, on the device: as bfloat16 where they are many, since products of many
        tokens round them to that, and half of them is less to copy and to keep."""
        return self.given(x.bfloat16() if self._is_card and len(x) >= _MANY_ROWS else x)

    def taken(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to bring a result to the host; what is returned waits for it."""
        if not self._is_card:
            return lambda: x
        arrived = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        arrived.copy_(x, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def result() -> Tensor:
            done.synchronize()
            return arrived

        return result

    def done(self) -> Callable[[], None]:
        """What waits for all that was queued in this block of `computing`."""
        if not self._is_card:
            return lambda: None
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def _copy(self, parts: Iterator[tuple[Tensor, Tensor]], to_card: bool) -> None:
        if not self._is_card:
            for source, target in parts:
                target.copy_(source)
            return
        step = len(self._staging[0])
        with torch.cuda.device(self._device), torch.cuda.stream(self._background):
            pending: list[torch.cuda.Event | None] = [None, None]
            pieces = (
                (source[first : first + step], target[first : first + step])
                for source, target in parts
                for first in range(0, len(source), step)
            )
            for number, (source, target) in enumerate(pieces):
                staging, event = self._staging[number % 2][: len(source)], pending[number % 2]
                if event is not None:
                    event.synchronize()
                staging.copy_(source, non_blocking=not to_card)  # into pinned memory, or out of the card
                if to_card:
                    target.copy_(staging, non_blocking=True)
                else:
                    self._background.synchronize()
                    target.copy_(staging)
                event = torch.cuda.Event()
                event.record()
                pending[number % 2] = event
            self._background.synchronize()


def _tensor(source: np.ndarray) -> Tensor:
    """The memory of an array, uint8, as a tensor, valid as long as the array is. torch warns of memory that cannot be
    written, as a mapped file's, though nobody means to."""
    if source.flags.writeable:
        return torch.from_numpy(source)
    return torch.frombuffer((ctypes.c_uint8 * source.nbytes).from_address(source.ctypes.data), dtype=torch.uint8)
