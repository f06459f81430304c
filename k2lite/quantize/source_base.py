"""What the quantizer knows of a source, whatever form it has."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from k2lite.config import ModelConfig
from quant.closing import Closing
from quant.convert.source_tensor import SourceTensor
from quant.gguf.gguf_writer import MetadataEntry


@dataclass(frozen=True)
class StorageTotal:
    """What a source holds in one kind of storage ("FP8", "BF16", "Q8_0" ...). `nbytes` counts scales too."""

    tensors: int
    weights: int
    nbytes: int


def storage_totals(stored: Iterable[tuple[str, int, int]]) -> dict[str, StorageTotal]:
    """Sums of (storage, weights, bytes) by storage, the largest first."""
    totals: dict[str, StorageTotal] = {}
    for storage, weights, nbytes in stored:
        so_far = totals.get(storage, StorageTotal(0, 0, 0))
        totals[storage] = StorageTotal(so_far.tensors + 1, so_far.weights + weights, so_far.nbytes + nbytes)
    return dict(sorted(totals.items(), key=lambda item: -item[1].nbytes))


class QuantizeSource(Closing):
    """An open model. Use it in a `with` statement: its files stay open from the beginning to the end.

    `tensors` are those of the file to be, in its order. `default_recipe` suits the way in which the source is stored.
    `notes` says, a line each, what is left out or worth knowing. `complete` is False for a plan without weights.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        tensors: list[SourceTensor],
        storages: Mapping[str, StorageTotal],
        *,
        default_recipe: str,
        notes: Iterable[str] = (),
        complete: bool = True,
        resources: ExitStack | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.tensors = tensors
        self.storages = storages
        self.default_recipe = default_recipe
        self.notes = tuple(notes)
        self.complete = complete
        self._resources = resources or ExitStack()

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.config.n_layers

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors that are read."""
        return sum(total.nbytes for total in self.storages.values())

    @abstractmethod
    def metadata(self, name: str | None, file_type: int) -> list[MetadataEntry]:
        """Keys of the GGUF file, tokenizer included. `name` None leaves the model's own. Raises K2Error."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """File name -> what changes when the file does, for every file on which the output depends. Raises K2Error."""

    def count_inexact_scales(self, names: Collection[str]) -> dict[str, int]:
        """INT4 scales that float16 rounds, by tensor, of those in `names`; call it when they are written as Q4_0.

        Parts that an earlier run wrote are counted by reading their scales. Raises K2Error.
        """
        return {}

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._resources.close()
