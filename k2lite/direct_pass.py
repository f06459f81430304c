"""One token through all layers in one call of the kernels, where every weight lies in RAM and stays there.

What Python does between the two or three calls of a layer takes as long as reading some megabytes of weights, because
the weights have pushed its own memory out of the processor's caches.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from k2lite.kv_cache import KvCache
from k2lite.layer import DecoderLayer, Layer, Rotations
from offload.experts import Experts, StillExperts
from quant.kernels import Kernels
from quant.kernels.fused import ExpertTable, FusedKernels, LayerWeights, Pass, PassNotes


class DirectPass:
    """The layers of a model, as one call for one token. The same bits as layer after layer."""

    def __init__(self, layers: Sequence[Layer], experts: StillExperts, call: Pass) -> None:
        self.watch: Callable[[PassNotes], None] | None = None  # told what each token did
        self._layers, self._experts, self._call = layers, experts, call

    def is_ready(self, experts: Experts) -> bool:
        """Whether `experts` are those that it was made for, and none has to be fetched from the drive any more."""
        return experts is self._experts and self._experts.is_there

    def forward(self, x: Tensor, cache: KvCache, rotations: Rotations) -> Tensor:
        """The stream x [1, hidden] f32 behind all layers."""
        caches = [cache.layer(index) for index in range(len(self._layers))]
        notes = self._call(x, caches, cache.length, rotations)
        if self.watch is not None:
            self.watch(notes)
        for index, (layer, ids, seconds) in enumerate(zip(self._layers, notes.experts, notes.seconds, strict=True)):
            if ids:
                self._experts.note(index, ids, layer.shared, seconds[-1])
        return x


def direct_pass(layers: Sequence[DecoderLayer], experts: Experts, kernels: Kernels) -> DirectPass | None:
    """None where some layer is on a card, some expert may move, or the kernels cannot."""
    if not isinstance(kernels, FusedKernels) or not isinstance(experts, StillExperts):
        return None
    own = [layer for layer in layers if isinstance(layer, Layer)]
    if not own or len(own) < len(layers):
        return None
    tables = experts.tables()
    call = kernels.prepare_pass([_weights(layer, tables.get(index)) for index, layer in enumerate(own)])
    return None if call is None else DirectPass(own, experts, call)


def _weights(layer: Layer, table: ExpertTable | None) -> LayerWeights:
    if layer.router is not None and table is not None:
        return LayerWeights(layer.attention.described, table, layer.router.described, layer.shared)
    assert layer.dense is not None
    block = ExpertTable(layer.dense, 1, (0, 0, 0))
    return LayerWeights(layer.attention.described, block, norm=layer.dense_norm, eps=layer.norm_eps)
