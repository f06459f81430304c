"""One token on its way through the layers of a card: the buffers, and the recordings that read and write them.

A recording stays right while the conversation grows, since the token's position is a value on the card and attention
looks at more positions than there are: at a window of the cache, of which a mask hides the end.
"""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.kv_cache import KvCache
from k2lite.recording import Recorder, Recording

_SMALLEST_WINDOW = 256
_LARGEST_EXCESS = 4  # times as many positions as have to be read; larger windows are left


class CardStep:
    """The buffers of one card. Layers use them one after the other; owned by the thread that computes.

    `stream` [1, hidden] goes into a layer and comes out of it. `packed` [1, 2 * hidden + 2 * used] is what is known in
    its middle: the stream behind attention, its norm, weights and numbers of the experts (see Crossing).
    """

    def __init__(self, device: torch.device, config: ModelConfig, recorder: Recorder) -> None:
        self.recorder = recorder
        hidden, self.used = config.hidden_size, config.experts_per_token
        self.stream = torch.zeros(1, hidden, device=device)
        self.packed = torch.zeros(1, 2 * hidden + 2 * self.used, device=device)
        self.middle, self.normed, self.weights, self.ids = self.packed.split([hidden, hidden, self.used, self.used], 1)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.cosines, self.sines = (torch.zeros(1, config.qk_rope_dim // 2, device=device) for _ in range(2))
        self._at: int | None = None
        self._packed_there = torch.empty(self.packed.shape, pin_memory=True) if device.type == "cuda" else self.packed
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        self._parts = self._packed_there.split([hidden, hidden, self.used, self.used], dim=1)
        self._ids = torch.empty(1, self.used, dtype=torch.int64)

    def send(self) -> None:
        """Begin to bring what is packed to the host."""
        if self._done is not None:
            self._packed_there.copy_(self.packed, non_blocking=True)
            self._done.record(torch.cuda.current_stream(self.packed.device))

    def arrived(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Waits for what was sent; then stream and norm [1, hidden], ids int64 and weights [1, used], on the host, for
        as long as nothing is sent again."""
        if self._done is not None:
            self._done.synchronize()
        stream, normed, weights, ids = self._parts
        return stream, normed, self._ids.copy_(ids), weights

    def begin(self, x: Tensor, position: int, rotations: tuple[Tensor, Tensor]) -> None:
        """A token's stream [1, hidden], at a position whose angles are `rotations`."""
        if x.data_ptr() != self.stream.data_ptr():
            self.stream.copy_(x)
        if position != self._at:
            self._at = None
            self.position.fill_(position)
            self.cosines.copy_(rotations[0])
            self.sines.copy_(rotations[1])
            self._at = position


class WindowRecording:
    """A recording over the first positions of one layer's cache.

    It is made anew for another cache, and when its window has become too small, or far too large.
    """

    def __init__(self) -> None:
        self._recording: Recording | None = None
        self._cache: weakref.ref[KvCache] | None = None
        self.window = 0

    def replay(self, recorder: Recorder, run: Callable[[Tensor], None], cache: KvCache, layer: int) -> None:
        """Queue `run` for a window [positions, latent_dim] with room for one more token than `cache` has."""
        needed = window_of(cache.length + 1, cache.capacity)
        fits = needed <= self.window <= _LARGEST_EXCESS * needed
        if self._recording is None or self._cache is None or self._cache() is not cache or not fits:
            window = cache.layer(layer)[:needed]
            self._recording = None  # its memory is there for the next one
            self._recording = recorder.record(lambda: run(window))
            self._cache, self.window = weakref.ref(cache), needed
        self._recording.replay()


class PlainRecording:
    """A recording that nothing but its buffers matters to."""

    def __init__(self) -> None:
        self._recording: Recording | None = None

    def replay(self, recorder: Recorder, run: Callable[[], None]) -> None:
        """Queue `run`."""
        if self._recording is None:
            self._recording = recorder.record(run)
        self._recording.replay()


def window_of(positions: int, capacity: int) -> int:
    """The power of two that holds so many positions, as far as the cache goes."""
    return min(capacity, max(_SMALLEST_WINDOW, 1 << (positions - 1).bit_length()))
