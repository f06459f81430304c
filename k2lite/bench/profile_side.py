"""Where a token's time goes: the engine's side with a clock at the parts of every layer and at every kernel call.

The clocks cost a little, which is why the speeds are measured in another process.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from k2lite.bench.clock import Clock
from k2lite.bench.engine_side import EngineSide
from k2lite.bench.options import WARM_UP_TOKENS
from k2lite.layer import Layer
from k2lite.load import LoadedModel, load_model
from k2lite.model import Model
from k2lite.sampling import sample
from quant.kernels import Kernels
from quant.kernels.fused import PassNotes

_PREPARED = "prepare_"


class ProfileSide(EngineSide):
    """See child.Side."""

    def __init__(self) -> None:
        self._clock = Clock()

    def _open(self, **options: Any) -> LoadedModel:
        loaded = load_model(wrap_kernels=lambda kernels: _timed_kernels(kernels, self._clock), **options)
        put_clocks(loaded.model, self._clock)
        return loaded

    def profile(self, tokens: int, depth: int, seed: int) -> dict[str, Any]:
        """Milliseconds by stage and kernel, averaged over the faster half of the tokens."""
        ids = self._fresh_ids(depth + WARM_UP_TOKENS + tokens, seed)
        self._cache.truncate(0)
        if depth:
            self._append(ids[:depth])
        sampling = self._loaded.info.sampling_for(None)
        generator = torch.Generator().manual_seed(seed)
        recent: list[int] = []
        for position in range(depth, len(ids)):
            if position == depth + WARM_UP_TOKENS:
                self._clock.forget()
            started = time.perf_counter()
            logits = self._step(ids[position : position + 1])
            forward_s = time.perf_counter() - started
            recent.append(sample(logits[-1], sampling, recent, generator))
            self._clock.end_token(forward_s, time.perf_counter() - started)
        config = self._loaded.model.config
        return {"layers": config.n_layers, "dense_layers": config.n_dense_layers, **self._clock.summary()}


def put_clocks(model: Model, clock: Clock) -> None:
    """Time the parts of every layer of `model`."""
    for index, layer in enumerate(model._layers):
        if not isinstance(layer, Layer):
            continue  # what a card does is not done when its call returns
        parts: dict[str, Any] = {"attention": clock.stage("attention", layer.attention)}
        if layer.router is not None:
            parts["router"] = clock.stage("router", layer.router)
        model._layers[index] = replace(layer, **parts)
    experts: Any = model._experts
    experts.forward = clock.stage("experts", experts.forward)
    if model._direct is not None:
        routed = [layer.router is not None for layer in model._layers]
        model._direct.watch = lambda notes: _share_out(notes, routed, clock)


def _share_out(notes: PassNotes, routed: Sequence[bool], clock: Clock) -> None:
    """What one call for all layers took, by stages."""
    for (attention, router, experts), with_experts in zip(notes.seconds, routed[notes.first :], strict=False):
        clock.part("attention", attention)
        if with_experts:
            clock.part("router", router)
        clock.part("experts" if with_experts else "dense layers", experts)


def _timed_kernels(kernels: Kernels, clock: Clock) -> Kernels:
    """The same object, whose public methods are timed; and what those named prepare_* return."""
    for name in dir(kernels):
        method = getattr(kernels, name)
        if name.startswith("_") or not callable(method) or name in ("close", "serves"):
            continue
        timed = _preparing(name, method, clock) if name.startswith(_PREPARED) else clock.kernel(name, method)
        setattr(kernels, name, timed)
    return kernels


def _preparing(name: str, method: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    def prepare(*arguments: Any, **options: Any) -> Any:
        return clock.kernel(name.removeprefix(_PREPARED), method(*arguments, **options))

    return prepare
