"""One token through neighbouring layers of a card in one native call: graphs, copies, and the experts that RAM has.

Between two layers Python takes some 200 microseconds, because the weights have pushed its code out of the caches. The
call comes back in front of experts that it cannot find, and goes on behind them.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise

import torch
from torch import Tensor

from k2lite.card_layer import CardLayer
from k2lite.card_step import CardStep, window_fits, window_of
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.layer import DecoderLayer, Rotations
from k2lite.recording import Recording
from offload.experts import Experts, TabledExperts
from quant.kernels import Kernels
from quant.kernels.card_work import CardPassCall, CardWork
from quant.kernels.fused import FusedKernels


class CardPass:
    """Layers of one card that follow each other, from the `first` of the model on."""

    def __init__(self, first: int, layers: Sequence[CardLayer], experts: TabledExperts, kernels: FusedKernels) -> None:
        self._first, self._layers, self._tabled, self._kernels = first, tuple(layers), experts, kernels
        self._step: CardStep = layers[0].step
        self._records = experts.records()
        self._call: CardPassCall | None = None
        self._kept: list[Recording] = []  # whose handles the call has
        self._beside: list[Recording] = []
        self._cache: weakref.ref[KvCache] | None = None
        self._window, self._queue = 0, 0

    def is_ready(self, experts: Experts) -> bool:
        """Whether `experts` are those that it was made for, nothing has to be guessed, and recordings work."""
        tabled = self._tabled
        if experts is not tabled or self._step.recorder.calls is None:
            return False
        return tabled.is_there and not tabled.guessed_ahead

    def forward(self, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor | None:
        """The stream x [1, hidden] f32 behind these layers, on their card. None, with x as it was, where the card
        turned out not to record. Raises RuntimeError for what its driver refuses."""
        step = self._step
        step.begin(x, cache.length, rotations)
        if not self._fits(cache):
            kept = x.clone()
            self._record(experts, cache)  # runs what it records: writes the stream, and this position of the cache
            step.stream.copy_(kept)
        if self._call is None:
            return None
        index = 0
        while index < len(self._layers):
            notes = self._call(index)
            for ids, in_ram, seconds in zip(notes.experts, notes.in_ram, notes.seconds, strict=True):
                if ids:
                    self._tabled.note(self._first + index, ids, None, seconds, in_ram)
                index += 1
            if notes.answer:
                raise _refused(notes.answer)
            if notes.waiting is not None:
                step.bring(self._asked(index, experts))
                index += 1
        if self._layers[-1].router is not None:
            step.stream.add_(step.sum)
        return step.stream

    def _asked(self, index: int, experts: Experts) -> Tensor:
        """The sum of a layer's experts, of which one is somewhere else."""
        layer = self._first + index
        stream, normed, ids, weights = self._step.arrived()
        experts.announce(layer, stream)
        return experts.forward(layer, normed, ids, weights, beside=experts.share_of(layer) is not None)

    def _fits(self, cache: KvCache) -> bool:
        """Whether there are recordings over a window of `cache` that has room for one more token."""
        if self._call is None or self._cache is None or self._cache() is not cache or self._queue != self._step.queue:
            return False
        return window_fits(self._window, window_of(cache.length + 1, cache.capacity))

    def _record(self, experts: Experts, cache: KvCache) -> None:
        """Make the call, as far as the card records."""
        self._call, self._kept = None, []  # their memory is there for the next ones
        calls, window = self._step.recorder.calls, window_of(cache.length + 1, cache.capacity)
        works = self._recorded(experts, cache, window)
        if calls is None or works is None:
            return
        buffers = self._step.buffers()
        self._call = self._kernels.prepare_card_pass(calls, buffers, works)
        self._cache, self._window, self._queue = weakref.ref(cache), window, buffers.stream

    def _recorded(self, experts: Experts, cache: KvCache, window: int) -> list[CardWork] | None:
        """Of every layer; None where the card fails to record one."""
        joins = [False, *(before.router is not None for before, _ in pairwise(self._layers))]
        works = []
        for number, (layer, joined) in enumerate(zip(self._layers, joins, strict=True)):
            index = self._first + number
            positions = cache.layer(index)[:window]
            in_front = self._keep(partial(_in_front, layer, positions, joined))
            share = experts.share_of(index) if layer.router is not None else None
            if number == len(self._beside):
                self._beside.append(self._step.recorder.record(partial(layer.feed_forward, share)))
            beside = self._beside[number].handle
            if in_front is None or beside is None:
                return None
            records = None if layer.router is None else self._records[index]
            works.append(CardWork(in_front, beside, records, share is not None))
        return works

    def _keep(self, run: Callable[[], None]) -> int | None:
        recording = self._step.recorder.record(run)
        self._kept.append(recording)
        return recording.handle


def _in_front(layer: CardLayer, window: Tensor, joined: bool) -> None:
    """Everything in front of a layer's experts; `joined` to what the host has multiplied of the layer before."""
    step = layer.step
    layer.attend(window, step.stream + step.sum if joined else step.stream)


def card_passes(layers: Sequence[DecoderLayer], experts: Experts, kernels: Kernels) -> dict[int, CardPass]:
    """By the number of their first layer; none where the kernels or the experts cannot."""
    if not isinstance(kernels, FusedKernels) or not isinstance(experts, TabledExperts):
        return {}
    records = experts.records()

    def home(numbered: tuple[int, DecoderLayer]) -> Home | None:
        """The card of a layer that can be part of a pass."""
        number, layer = numbered
        fits = isinstance(layer, CardLayer) and (layer.router is None or number in records)
        return layer.home if fits else None

    passes = {}
    for card, numbered in groupby(enumerate(layers), home):
        if card is not None:
            numbers, run = zip(*numbered, strict=True)
            cards = [layer for layer in run if isinstance(layer, CardLayer)]
            passes[numbers[0]] = CardPass(numbers[0], cards, experts, kernels)
    return passes


def _refused(answer: int) -> RuntimeError:
    """What a driver's answer means: torch knows what has happened, if anything has."""
    torch.cuda.synchronize()
    return RuntimeError(f"CUDA: the driver answered {answer} between two layers")
