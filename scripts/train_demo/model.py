"""The demo model, trainable: K2's forward pass for whole sequences (MLA in its plain, expanded form)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.train_demo.experts import MixtureOfExperts, SwiGlu, matrix
from scripts.train_demo.shape import DemoShape


class RmsNorm(nn.Module):
    """x / rms(x) * weight, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def yarn_frequencies(shape: DemoShape) -> Tensor:
    """Angles per position [rope_dim / 2]: fast pairs as they are, slow pairs divided by the factor (YaRN)."""
    dim, theta = shape.rope_dim, shape.rope_theta

    def pair_at(rotations: float) -> float:
        return dim * math.log(shape.yarn_original_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_at(shape.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_at(shape.yarn_beta_slow)), dim - 1)
    plain = theta ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain / shape.yarn_factor * ramp


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """RoPE on pairs (2i, 2i + 1) of the last axis; `angles` [..., dim / 2] broadcasts."""
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x.dtype)


class LatentAttention(nn.Module):
    """Multi-head latent attention with q-LoRA. With `watch` set, `last_scores` is the largest score of each head."""

    def __init__(self, shape: DemoShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_a_proj = matrix(shape.q_lora_rank, shape.hidden)
        self.q_a_layernorm = RmsNorm(shape.q_lora_rank, 1e-6)
        self.q_b_proj = matrix(shape.heads * shape.qk_dim, shape.q_lora_rank)
        self.kv_a_proj_with_mqa = matrix(shape.kv_lora_rank + shape.rope_dim, shape.hidden)
        self.kv_a_layernorm = RmsNorm(shape.kv_lora_rank, 1e-6)
        self.kv_b_proj = matrix(shape.heads * (shape.nope_dim + shape.value_dim), shape.kv_lora_rank)
        self.o_proj = matrix(shape.hidden, shape.heads * shape.value_dim, gain=0.3)
        self.watch = False
        self.last_scores = torch.zeros(shape.heads)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # x [B, T, hidden], angles [B, T, rope/2]
        s = self.shape
        batch, length = x.shape[:2]
        q = F.linear(self.q_a_layernorm(F.linear(x, self.q_a_proj)), self.q_b_proj)
        q_nope, q_rope = q.view(batch, length, s.heads, -1).split([s.nope_dim, s.rope_dim], -1)
        latent, k_rope = F.linear(x, self.kv_a_proj_with_mqa).split([s.kv_lora_rank, s.rope_dim], -1)
        kv = F.linear(self.kv_a_layernorm(latent), self.kv_b_proj).view(batch, length, s.heads, -1)
        k_nope, v = kv.split([s.nope_dim, s.value_dim], -1)
        q_rope = rotate(q_rope, angles[:, :, None])
        k_rope = rotate(k_rope, angles)[:, :, None].expand(-1, -1, s.heads, -1)
        q = torch.cat((q_nope, q_rope), -1).transpose(1, 2)
        k = torch.cat((k_nope, k_rope), -1).transpose(1, 2)
        if self.watch:
            self.last_scores = largest_scores(q, k, s.softmax_scale)
        out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, scale=s.softmax_scale)
        return F.linear(out.transpose(1, 2).reshape(batch, length, -1), self.o_proj)

    @torch.no_grad()
    def clip(self, threshold: float) -> int:
        """qk-clip: shrink q and k of every head whose largest score passed `threshold`; the number of heads shrunk.

        The shared k_rope cannot be shrunk for one head, so its query half takes the whole factor (Kimi K2 report).
        """
        s = self.shape
        gamma = (threshold / self.last_scores.clamp(min=1e-6)).clamp(max=1.0)[:, None, None]
        q = self.q_b_proj.view(s.heads, s.qk_dim, -1)
        kv = self.kv_b_proj.view(s.heads, s.nope_dim + s.value_dim, -1)
        q[:, : s.nope_dim] *= gamma.sqrt()
        q[:, s.nope_dim :] *= gamma
        kv[:, : s.nope_dim] *= gamma.sqrt()
        return int((gamma < 1).sum())


@torch.no_grad()
def largest_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The largest causal attention score of each head [H]; q and k are [B, H, T, d]."""
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    best = torch.full((q.shape[1],), -math.inf)
    for one_q, one_k in zip(q.float(), k.float(), strict=True):
        scores = (one_q @ one_k.mT * scale).masked_fill(future, -math.inf)
        best = torch.maximum(best, scores.amax((1, 2)))
    return best


class Layer(nn.Module):
    def __init__(self, shape: DemoShape, index: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden, shape.rms_eps)
        self.self_attn = LatentAttention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden, shape.rms_eps)
        dense = index < shape.dense_layers
        self.mlp = SwiGlu(shape.hidden, shape.dense_width) if dense else MixtureOfExperts(shape)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        h = self.post_attention_layernorm(x)
        return x + self.mlp(h.flatten(0, 1)).view(h.shape)


class DemoModel(nn.Module):
    def __init__(self, shape: DemoShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden) * 0.5)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.layers))
        self.norm = RmsNorm(shape.hidden, shape.rms_eps)
        self.lm_head = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden) * shape.hidden**-0.5)
        self.frequencies: Tensor
        self.register_buffer("frequencies", yarn_frequencies(shape), persistent=False)

    def hidden_states(self, ids: Tensor, positions: Tensor) -> Tensor:  # [B, T], [B, T] -> [B, T, hidden]
        x = F.embedding(ids, self.embed_tokens)
        angles = positions[..., None].float() * self.frequencies
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:  # [B, T] -> logits [B, T, vocab]
        if positions is None:
            positions = torch.arange(ids.shape[1]).expand(ids.shape)
        return F.linear(self.hidden_states(ids, positions), self.lm_head)

    def attentions(self) -> list[LatentAttention]:
        return [m for m in self.modules() if isinstance(m, LatentAttention)]

    def mixtures(self) -> list[MixtureOfExperts]:
        return [m for m in self.modules() if isinstance(m, MixtureOfExperts)]
