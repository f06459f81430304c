"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) on a card, its cache beside it.

The cache may have 16 bits: what is multiplied with it is rounded to them as well, sums are float32.
Few tokens attend in latent space, where the cache is read once for all heads; a prompt expands keys and values of some
heads at a time, which takes fewer operations for each pair of tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from k2lite.attention import AttentionWeights, naive_is_cheaper
from k2lite.card_parts import SCORE_VALUES, SCRATCH_VALUES
from k2lite.config import ModelConfig
from k2lite.kv_cache import KvCache
from k2lite.norm import rms_norm
from k2lite.rope import rotate, softmax_scale
from quant.kernels.card import CardKernels, CardTensor, upload
from quant.tensor import QuantizedTensor


@dataclass(frozen=True)
class CardAttentionWeights:
    """See AttentionWeights, all on one device. `q_first` is q, or q_a where the query path has a low rank."""

    norm: Tensor
    q_first: CardTensor
    q_a_norm: Tensor | None
    q_b: CardTensor | None
    kv_a: CardTensor
    kv_a_norm: Tensor
    k_b: CardTensor
    v_b: CardTensor
    output: CardTensor

    @classmethod
    def on(cls, device: torch.device, w: AttentionWeights) -> "CardAttentionWeights":
        """Copies of weights that lie in RAM."""

        def copy(tensor: QuantizedTensor) -> CardTensor:
            return upload(tensor, device)

        first = w.q if w.q is not None else w.q_a
        assert first is not None
        return cls(
            norm=w.norm.to(device),
            q_first=copy(first),
            q_a_norm=None if w.q_a_norm is None else w.q_a_norm.to(device),
            q_b=None if w.q_b is None else copy(w.q_b),
            kv_a=copy(w.kv_a),
            kv_a_norm=w.kv_a_norm.to(device),
            k_b=copy(w.k_b),
            v_b=copy(w.v_b),
            output=copy(w.output),
        )


class CardAttention:
    """The attention of one layer, on one device."""

    def __init__(self, weights: CardAttentionWeights, config: ModelConfig, kernels: CardKernels) -> None:
        self._w, self._config, self._kernels = weights, config, kernels
        self._scale = softmax_scale(config)

    def __call__(self, x: Tensor, layer: int, cache: KvCache, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """Attend from norm(`x` [T, hidden] f32) to everything cached and to itself; returns x + that, [T, hidden]."""
        q_nope, q_rope, latents = self._projected(x, rotations)
        cached = cache.write(layer, latents)
        if naive_is_cheaper(len(x), len(cached), self._config):
            taken = self._expanded(q_nope, q_rope, cached)
        else:
            future = _future(len(x), len(cached), x.device) if len(x) > 1 else None
            taken = self._absorbed(q_nope, q_rope, cached, future)
        return x + self._kernels.linear(taken.flatten(1), self._w.output)

    def at(self, x: Tensor, position: Tensor, window: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """The same for one token at a position that only the device knows, int64 [1]: this can be recorded.

        `window` [S, latent_dim] are the first positions of the cache. The token's is written; those behind it are not
        seen, but have to be finite.
        """
        q_nope, q_rope, latents = self._projected(x, rotations)
        window.index_copy_(0, position, latents.to(window.dtype))
        future = torch.arange(len(window), device=x.device)[None] > position
        return x + self._kernels.linear(self._absorbed(q_nope, q_rope, window, future).flatten(1), self._w.output)

    def _projected(self, x: Tensor, rotations: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, heads, nope] and [T, heads, rope], and what is cached of x, [T, latent_dim]."""
        c, w = self._config, self._w
        h = rms_norm(x, w.norm, c.rms_eps)
        q_nope, q_rope = self._queries(h).view(len(x), c.n_heads, c.head_dim).split([c.qk_nope_dim, c.qk_rope_dim], -1)
        latent, k_rope = self._kernels.linear(h, w.kv_a).split([c.kv_lora_rank, c.qk_rope_dim], -1)
        latent = rms_norm(latent, w.kv_a_norm, c.lora_norm_eps)
        return q_nope, rotate(q_rope, rotations), torch.cat([latent, rotate(k_rope, rotations)], -1)

    def _queries(self, h: Tensor) -> Tensor:
        """Queries of all heads, [T, heads * head_dim]."""
        low = self._kernels.linear(h, self._w.q_first)
        if self._w.q_b is None:
            return low
        assert self._w.q_a_norm is not None
        return self._kernels.linear(rms_norm(low, self._w.q_a_norm, self._config.lora_norm_eps), self._w.q_b)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, cached: Tensor, future: Tensor | None) -> Tensor:
        """In latent space: cached [S, latent + rope] serves all heads, less what is `future` [T, S].

        Returns [T, heads, v].
        """
        q = torch.cat([self._kernels.linear_heads(q_nope, self._w.k_b), q_rope], -1).transpose(0, 1)
        step = max(1, SCORE_VALUES // (q.shape[1] * len(cached)))
        parts = [self._latents(some, cached, future) for some in q.split(step)]
        latents = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._kernels.linear_heads(latents.transpose(0, 1), self._w.v_b)

    def _latents(self, q: Tensor, cached: Tensor, future: Tensor | None) -> Tensor:
        """What some heads take, in latent space: q [h, T, latent + rope] -> [h, T, latent]."""
        (heads, tokens, _), positions = q.shape, len(cached)
        scores = _product(q.flatten(0, 1), cached.T).mul_(self._scale).view(heads, tokens, positions)
        if future is not None:
            scores.masked_fill_(future, float("-inf"))
        weights = scores.softmax(-1).flatten(0, 1)
        return _product(weights, cached[:, : self._config.kv_lora_rank]).view(heads, tokens, -1)

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, cached: Tensor) -> Tensor:
        """With the keys and values of each head, in bfloat16 on a card. Returns [T, heads, v]."""
        c, dtype = self._config, torch.bfloat16 if cached.is_cuda else torch.float32
        latent, k_rope = cached.to(dtype).split([c.kv_lora_rank, c.qk_rope_dim], -1)
        q = torch.cat([q_nope, q_rope], -1).transpose(0, 1).to(dtype)
        mask = causal_lower_right(q.shape[1], len(cached))
        step = max(1, min(c.n_heads, SCRATCH_VALUES // (len(cached) * (c.head_dim + c.v_dim))))
        parts = []
        for first in range(0, c.n_heads, step):
            heads = slice(first, min(first + step, c.n_heads))
            key_up, value_up = self._plain(self._w.k_b, heads, dtype), self._plain(self._w.v_b, heads, dtype)
            k = torch.cat([latent @ key_up, k_rope.expand(len(key_up), -1, -1)], -1)
            v = latent @ value_up.transpose(1, 2)
            parts.append(scaled_dot_product_attention(q[None, heads], k[None], v[None], mask, scale=self._scale)[0])
        return torch.cat(parts).transpose(0, 1).float()

    def _plain(self, w: CardTensor, heads: slice, dtype: torch.dtype) -> Tensor:
        """Decoded weights [h, rows, cols] of some heads."""
        _, rows, cols = w.shape
        ids = torch.arange(heads.start * rows, heads.stop * rows, device=w.data.device)
        flat = CardTensor(w.type, (w.rows, cols), w.data)
        return self._kernels.rows(flat, ids).view(-1, rows, cols).to(dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [n, k] f32 @ b [k, m] of any float type -> [n, m] f32."""
    if b.is_cuda and b.dtype != torch.float32:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    return a @ b.float()


def _future(tokens: int, positions: int, device: torch.device) -> Tensor:
    """[T, S]: what each of the last T of S positions must not see."""
    return torch.ones(tokens, positions, dtype=torch.bool, device=device).triu_(positions - tokens + 1)
