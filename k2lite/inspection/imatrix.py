"""What is in an importance matrix: how often each weight was seen, and which experts never were."""

from dataclasses import dataclass

import numpy as np

from quant.gguf.gguf_file import GgufFile
from quant.imatrix.imatrix_file import COUNTS_SUFFIX, FILE_TYPE, SUMS_SUFFIX, TYPE_KEY
from quant.types import block_type


@dataclass(frozen=True)
class StatisticsSummary:
    """Of one weight: `groups` experts (else 1), each seen `least` to `most` times, `unseen` of them never."""

    name: str
    groups: int
    cols: int
    least: float
    most: float
    unseen: int


def is_imatrix(file: GgufFile) -> bool:
    """Whether a GGUF file holds statistics instead of weights."""
    return bool(file.metadata.get(TYPE_KEY) == FILE_TYPE)


def statistics(file: GgufFile) -> tuple[StatisticsSummary, ...]:
    """A line for each weight, out of the counts alone. What has no counts, or others than F32, is left out."""
    summaries = []
    for name in file.tensors:
        weight = name.removesuffix(SUMS_SUFFIX)
        counted = file.tensors.get(weight + COUNTS_SUFFIX)
        if weight == name or counted is None or counted.type != block_type("F32"):
            continue
        counts = file.tensor(counted.name).data.view(np.float32)
        cols = file.tensors[name].shape[-1]
        unseen = int((counts == 0).sum())
        summaries.append(
            StatisticsSummary(weight, counts.size, cols, float(counts.min()), float(counts.max()), unseen)
        )
    return tuple(summaries)
