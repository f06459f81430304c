"""Layers on a card as wide as they are asked for, to see what they take: weights that nobody looks at."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from k2lite.card_attention import CardAttention, CardAttentionWeights
from k2lite.card_layer import CardFeedForward, CardLayer, CardRouter
from k2lite.card_memory import card_buffers, stream_bytes
from k2lite.card_step import CardStep
from k2lite.config import ModelConfig
from k2lite.home import Home
from k2lite.recording import CallRecorder
from quant.kernels.card import CardTensor
from quant.types import block_type


def weights(device: torch.device, *shape: int) -> CardTensor:
    """Quantized weights on the card."""
    block = block_type("Q8_0")
    return CardTensor(block, shape, torch.zeros(block.nbytes(shape), dtype=torch.uint8, device=device))


class Nothing:
    """Experts whose sum is on the host."""

    def __init__(self, on_host: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._on_host = on_host

    def announce(self, layer: int, stream: Tensor) -> None:
        """Nothing is read ahead."""

    def forward(self, layer: int, x: Tensor, ids: Tensor, scales: Tensor) -> Tensor:
        with self._on_host():
            return torch.empty_like(x)


def layer_on(device: torch.device, c: ModelConfig, dense: bool) -> CardLayer:
    """A dense layer, or one with a router and a shared expert, of weights that are zeros where they are anything."""
    from quant.kernels.triton.kernels import TritonKernels

    kernels = TritonKernels()
    assert c.q_lora_rank is not None
    attention = CardAttentionWeights(
        norm=torch.ones(c.hidden_size, device=device),
        q_first=weights(device, c.q_lora_rank, c.hidden_size),
        q_a_norm=torch.ones(c.q_lora_rank, device=device),
        q_b=weights(device, c.n_heads * c.head_dim, c.q_lora_rank),
        kv_a=weights(device, c.latent_dim, c.hidden_size),
        kv_a_norm=torch.ones(c.kv_lora_rank, device=device),
        k_b=weights(device, c.n_heads, c.kv_lora_rank, c.qk_nope_dim),
        v_b=weights(device, c.n_heads, c.v_dim, c.kv_lora_rank),
        output=weights(device, c.hidden_size, c.n_heads * c.v_dim),
    )
    norm = torch.ones(c.hidden_size, device=device)
    home = Home("cuda:0", device, is_card=True, cache_type=torch.bfloat16)
    width = c.dense_width if dense else c.shared_width
    block = CardFeedForward(
        weights(device, width, c.hidden_size),
        weights(device, width, c.hidden_size),
        weights(device, c.hidden_size, width),
        kernels,
    )
    step, attend = CardStep(torch.device("cpu"), c, CallRecorder()), CardAttention(attention, c, kernels)
    if dense:
        return CardLayer(home, step, attend, c.rms_eps, dense_norm=norm, dense=block)
    router = CardRouter(norm, torch.ones(c.n_experts, c.hidden_size, device=device), None, c)
    return CardLayer(home, step, attend, c.rms_eps, router=router, shared=block)


def planned_layer(c: ModelConfig, tokens: int, positions: int) -> int:
    """The same as it is planned: everything but the driver's and the experts' part."""
    buffers = card_buffers(c, 0)
    attention = buffers.attention + min(buffers.attended * positions, buffers.most_attended)
    return max(attention, buffers.other) + stream_bytes(c) * tokens
