"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) over the latent cache.

Two forms give the same result. Absorbed multiplies the queries by the key up-projection and attends in latent space:
the cache is read once for all heads, best for few tokens. Naive expands keys and values of all heads from the cache:
fewer operations per pair of tokens, best for long chunks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from k2lite.config import ModelConfig
from k2lite.kv_cache import KvCache
from k2lite.norm import norm_of
from k2lite.rope import rotate, softmax_scale
from quant.encode.decode import dequantize
from quant.kernels import Kernels
from quant.kernels.fused import FusedKernels, LatentAttention
from quant.tensor import QuantizedTensor

# Scores and expanded keys are made for as many heads at a time as fit this many values (64 MiB of f32).
SCRATCH_VALUES = 16 * 1024 * 1024


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of one layer, its norm included. Either `q` or the three of the low-rank query path are set.

    k_b [heads, latent, nope] is stored transposed and v_b [heads, v, latent] as is, as GGUF files have them.
    """

    norm: Tensor
    q: QuantizedTensor | None
    q_a: QuantizedTensor | None
    q_a_norm: Tensor | None
    q_b: QuantizedTensor | None
    kv_a: QuantizedTensor
    kv_a_norm: Tensor
    k_b: QuantizedTensor
    v_b: QuantizedTensor
    output: QuantizedTensor


class Attention:
    """The attention of one layer."""

    def __init__(
        self, weights: AttentionWeights, config: ModelConfig, kernels: Kernels, absorbed_only: bool = False
    ) -> None:
        """`absorbed_only` has the kernels multiply by every weight, whatever that costs: naive decodes some itself."""
        self._w = weights
        self._absorbed_only = absorbed_only
        self._config = config
        self._kernels = kernels
        self._norm = norm_of(kernels)
        self._scale = softmax_scale(config)
        self.described = self._describe()
        self._in_one_call, self._to_expanded, self._most_tokens = None, None, 0
        if isinstance(kernels, FusedKernels):
            self._in_one_call = kernels.prepare_attention(self.described)
            self._to_expanded = kernels.prepare_head_attention(self.described)
            self._most_tokens = kernels.most_tokens

    def __call__(self, x: Tensor, layer: int, cache: KvCache, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """Attend from norm(`x` [T, hidden]) to everything cached and to itself; returns x + that, [T, hidden].

        `x` may be overwritten.
        """
        if self._in_one_call is not None and x.shape[0] <= self._most_tokens:
            return self._in_one_call(x, cache.layer(layer), cache.length, rotations)
        normed = self._norm(x, self._w.norm, self._config.rms_eps)
        return self._step_by_step(normed, layer, cache, rotations).add_(x)

    def _describe(self) -> LatentAttention:
        w, c = self._w, self._config
        q_b = w.q if w.q is not None else w.q_b
        assert q_b is not None
        return LatentAttention(
            norm=w.norm,
            q_a=w.q_a,
            q_a_norm=w.q_a_norm,
            q_b=q_b,
            kv_a=w.kv_a,
            kv_a_norm=w.kv_a_norm,
            k_b=w.k_b,
            v_b=w.v_b,
            output=w.output,
            rope_dim=c.qk_rope_dim,
            eps=c.rms_eps,
            lora_eps=c.lora_norm_eps,
            scale=self._scale,
        )

    def _step_by_step(self, x: Tensor, layer: int, cache: KvCache, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """One product after the other, in whichever form is cheaper."""
        c = self._config
        queries = self._queries(x)
        latent, k_rope = self._kernels.linear(x, self._w.kv_a).split([c.kv_lora_rank, c.qk_rope_dim], dim=-1)
        latent = self._norm(latent, self._w.kv_a_norm, c.lora_norm_eps)
        cached = cache.write(layer, torch.cat([latent, rotate(k_rope, rotations)], dim=-1))
        naive = not self._absorbed_only and naive_is_cheaper(x.shape[0], cached.shape[0], c)
        if naive and self._to_expanded is not None:
            taken = self._to_expanded(queries, cache.layer(layer), cache.length, rotations)
        else:
            q = queries.view(x.shape[0], c.n_heads, c.head_dim)
            q_nope, q_rope = q.split([c.qk_nope_dim, c.qk_rope_dim], dim=-1)
            form = self._naive if naive else self._absorbed
            taken = form(q_nope, rotate(q_rope, rotations), cached).flatten(1)
        return self._kernels.linear(taken, self._w.output)

    def _queries(self, x: Tensor) -> Tensor:
        """Queries of all heads, [T, heads * head_dim]."""
        if self._w.q is not None:
            return self._kernels.linear(x, self._w.q)
        assert self._w.q_a is not None and self._w.q_b is not None and self._w.q_a_norm is not None
        low = self._norm(self._kernels.linear(x, self._w.q_a), self._w.q_a_norm, self._config.lora_norm_eps)
        return self._kernels.linear(low, self._w.q_b)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, cached: Tensor) -> Tensor:
        """Attention in latent space; cached [S, latent + rope] serves all heads. Returns [T, heads, v]."""
        latent = cached[:, : self._config.kv_lora_rank]
        q_latent = self._kernels.linear_heads(q_nope, self._w.k_b)
        q = torch.cat([q_latent, q_rope], dim=-1).transpose(0, 1)
        out = torch.empty(*q.shape[:2], latent.shape[1])
        for heads in _head_blocks(q.shape[0], q.shape[1] * cached.shape[0]):
            out[heads] = _attend(q[heads], cached[None], latent[None], self._scale)
        return self._kernels.linear_heads(out.transpose(0, 1), self._w.v_b)

    def _naive(self, q_nope: Tensor, q_rope: Tensor, cached: Tensor) -> Tensor:
        """Attention with expanded keys and values. Returns [T, heads, v]."""
        c = self._config
        latent, k_rope = cached.split([c.kv_lora_rank, c.qk_rope_dim], dim=-1)
        q = torch.cat([q_nope, q_rope], dim=-1).transpose(0, 1)
        out = torch.empty(c.n_heads, q.shape[1], c.v_dim)
        per_head = cached.shape[0] * max(q.shape[1], c.head_dim + c.v_dim)
        for heads in _head_blocks(c.n_heads, per_head):
            key_up = self._head_slabs(self._w.k_b, heads)  # [h, latent, nope]
            value_up = self._head_slabs(self._w.v_b, heads)  # [h, v, latent]
            k = torch.cat([latent @ key_up, k_rope.expand(key_up.shape[0], -1, -1)], dim=-1)
            out[heads] = _attend(q[heads], k, latent @ value_up.transpose(1, 2), self._scale)
        return out.transpose(0, 1)

    def _head_slabs(self, w: QuantizedTensor, heads: slice) -> Tensor:
        """Decoded weights [h, rows, cols] of some heads of a [heads, rows, cols] tensor."""
        rows = w.shape[1]
        block = w.row_range(heads.start * rows, heads.stop * rows)
        return dequantize(block).view(-1, *w.shape[1:])


def naive_is_cheaper(tokens: int, positions: int, c: ModelConfig) -> bool:
    """Whether expanding keys and values takes fewer multiplications than attending in latent space."""
    expand = c.kv_lora_rank * (c.qk_nope_dim + c.v_dim)
    naive = positions * expand + tokens * positions * (c.head_dim + c.v_dim)
    absorbed = tokens * expand + tokens * positions * (c.latent_dim + c.kv_lora_rank)
    return naive < absorbed


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal softmax attention: q [heads, T, d] are the last T of the S positions in k [heads or 1, S, d]."""
    tokens, positions = q.shape[1], k.shape[1]
    scores = (q @ k.transpose(1, 2)).mul_(scale)
    if tokens > 1:
        future = torch.ones(tokens, positions, dtype=torch.bool).triu_(positions - tokens + 1)
        scores.masked_fill_(future, float("-inf"))
    return scores.softmax(-1) @ v


def _head_blocks(heads: int, values_per_head: int) -> list[slice]:
    """Slices over the heads so that the scratch of one block stays within SCRATCH_VALUES."""
    step = max(1, min(heads, SCRATCH_VALUES // max(1, values_per_head)))
    return [slice(start, min(start + step, heads)) for start in range(0, heads, step)]
