"""One token through all layers in one call of the kernels, where no layer is on a card.

What Python does between the two or three calls of a layer takes as long as reading some megabytes of weights, because
the weights have pushed its own memory out of the processor's caches. Where some expert is not in RAM the call comes
back in front of that layer's experts, and goes on behind them.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from k2lite.kv_cache import KvCache
from k2lite.layer import DecoderLayer, Layer, Rotations
from offload.experts import Experts, TabledExperts
from quant.kernels import Kernels
from quant.kernels.expert_records import ExpertRecords
from quant.kernels.fused import FusedKernels, LayerWeights, Pass, PassNotes


class DirectPass:
    """The layers of a model, as one call for one token. The same bits as layer after layer."""

    def __init__(self, layers: Sequence[Layer], experts: TabledExperts, call: Pass) -> None:
        self.watch: Callable[[PassNotes], None] | None = None  # told what each call did
        self._layers, self._tabled, self._call = layers, experts, call
        routed = (index for index, layer in enumerate(layers) if layer.router is not None)
        self._first_routed = next(routed, len(layers))

    def is_ready(self, experts: Experts) -> bool:
        """Whether `experts` are those that it was made for, and what they tell may be relied on by now."""
        return experts is self._tabled and self._tabled.is_there

    def forward(self, x: Tensor, cache: KvCache, rotations: Rotations, experts: Experts) -> Tensor:
        """The stream x [1, hidden] f32 behind all layers."""
        caches = [cache.layer(index) for index in range(len(self._layers))]
        guess, index = self._tabled.guessed_ahead, 0
        while guess and index < self._first_routed:  # in the middle of which the first guess is due
            x = self._layers[index].forward(index, x, cache, rotations, experts)
            index += 1
        while index < len(self._layers):
            notes = self._call(x, caches, cache.length, rotations, index, guess)
            if self.watch is not None:
                self.watch(notes)
            for ids, seconds in zip(notes.experts, notes.seconds, strict=False):
                if ids:
                    self._tabled.note(index, ids, self._layers[index].shared, seconds[-1])
                index += 1
            if (wait := notes.waiting) is not None:
                experts.announce(index, x)
                shared = self._layers[index].shared
                x.add_(experts.forward(index, wait.normed, wait.ids, wait.weights, shared))
                index += 1
        return x


def direct_pass(layers: Sequence[DecoderLayer], experts: Experts, kernels: Kernels) -> DirectPass | None:
    """None where some layer is on a card, or the kernels cannot."""
    if not isinstance(kernels, FusedKernels) or not isinstance(experts, TabledExperts):
        return None
    own = [layer for layer in layers if isinstance(layer, Layer)]
    records = experts.records()
    missing = [index for index, layer in enumerate(own) if layer.router is not None and index not in records]
    if not own or len(own) < len(layers) or missing:
        return None
    call = kernels.prepare_pass([_weights(layer, records.get(index)) for index, layer in enumerate(own)])
    return None if call is None else DirectPass(own, experts, call)


def _weights(layer: Layer, records: ExpertRecords | None) -> LayerWeights:
    if layer.router is not None and records is not None:
        return LayerWeights(layer.attention.described, records, layer.router.described, layer.shared)
    assert layer.dense is not None
    block = ExpertRecords.one(layer.dense)
    return LayerWeights(layer.attention.described, block, norm=layer.dense_norm, eps=layer.norm_eps)
