"""How many bytes of weights one token needs: what decoding has to read from memory, whatever the kernels are."""

import re
from collections.abc import Iterable
from typing import Protocol

from k2lite.config import ModelConfig

_LAYER = re.compile(r"blk\.([0-9]+)\.")
_EMBEDDING = "token_embd.weight"


class StoredTensor(Protocol):
    """A tensor of a file: `rows` counts all dimensions but the last."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...


def weight_bytes_per_token(tensors: Iterable[StoredTensor], config: ModelConfig) -> int:
    """Attention, shared expert, dense layers, routers, norms, head, and the chosen experts; one row of the embedding.

    A file without a head multiplies with its embedding, which then counts in full.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    total = sum(_bytes_of(tensor, config) for tensor in by_name.values())
    if _EMBEDDING in by_name and "output.weight" not in by_name:
        total += by_name[_EMBEDDING].nbytes
    return total


def _bytes_of(tensor: StoredTensor, config: ModelConfig) -> int:
    layer = _LAYER.match(tensor.name)
    if layer is not None and int(layer.group(1)) >= config.n_layers:
        return 0  # a layer that predicts further tokens
    if tensor.name == _EMBEDDING:
        return tensor.row_bytes
    if "_exps." in tensor.name:
        return tensor.nbytes // config.n_experts * config.experts_per_token
    return tensor.nbytes
