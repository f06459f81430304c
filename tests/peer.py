"""llama.cpp as the second opinion on a GGUF file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def llama_cpp_logits(path: Path, ids: list[int], **options: Any) -> Tensor:
    """Logits [T, vocab] f32 of every position, through llama-cpp-python on the CPU with a float32 cache."""
    from llama_cpp import GGML_TYPE_F32, Llama

    llama = Llama(
        str(path),
        n_ctx=max(512, len(ids)),
        n_batch=512,
        n_threads=2,
        logits_all=True,
        verbose=False,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
        **options,
    )
    try:
        llama.eval(ids)
        return torch.from_numpy(np.array(llama.scores[: len(ids)], dtype=np.float32))
    finally:
        llama.close()


def mean_kl(reference: Tensor, other: Tensor) -> float:
    """Mean over positions of KL(reference || other) in nats, from logits [T, vocab]."""
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
