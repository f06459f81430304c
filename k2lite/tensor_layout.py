"""The tensors of a model: their names and shapes in a GGUF file, and where a checkpoint keeps their values.

One table serves the converter (which tensors to write, read from where) and the loader (which tensors to expect).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from k2lite.config import ModelConfig

Transform = Callable[[Tensor, ModelConfig], Tensor]


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of the file, made of `parts` checkpoint tensors: one, or one for every slab of the slowest dimension.

    `shape` is in numpy order. `source` is the checkpoint's name, with {part} for the number of the slab.
    `source_shape` is the shape of each source before `transform` makes it (a slab of) the file's tensor.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    source_shape: tuple[int, ...]
    parts: int = 1
    transform: Transform | None = None

    def source_name(self, part: int) -> str:
        """Checkpoint name of one part."""
        return self.source.format(part=part)


def tensor_layouts(c: ModelConfig) -> list[TensorLayout]:
    """All tensors of a model in file order: embedding, layers, final norm, head."""
    tensors = [_plain("token_embd.weight", "model.embed_tokens.weight", c.vocab_size, c.hidden_size)]
    for layer in range(c.n_layers):
        tensors += _attention(c, layer)
        tensors += _dense(c, layer) if c.is_dense(layer) else _mixture(c, layer)
    tensors.append(_plain("output_norm.weight", "model.norm.weight", c.hidden_size))
    if not c.tied_embeddings:
        tensors.append(_plain("output.weight", "lm_head.weight", c.vocab_size, c.hidden_size))
    return tensors


def _plain(name: str, source: str, *shape: int) -> TensorLayout:
    return TensorLayout(name, shape, source, shape)


def _attention(c: ModelConfig, layer: int) -> Iterator[TensorLayout]:
    file, hf = f"blk.{layer}.", f"model.layers.{layer}."
    yield _plain(f"{file}attn_norm.weight", f"{hf}input_layernorm.weight", c.hidden_size)
    attn = f"{hf}self_attn."
    if c.q_lora_rank is None:
        yield _plain(f"{file}attn_q.weight", f"{attn}q_proj.weight", c.n_heads * c.head_dim, c.hidden_size)
    else:
        yield _plain(f"{file}attn_q_a.weight", f"{attn}q_a_proj.weight", c.q_lora_rank, c.hidden_size)
        yield _plain(f"{file}attn_q_a_norm.weight", f"{attn}q_a_layernorm.weight", c.q_lora_rank)
        yield _plain(f"{file}attn_q_b.weight", f"{attn}q_b_proj.weight", c.n_heads * c.head_dim, c.q_lora_rank)
    yield _plain(f"{file}attn_kv_a_mqa.weight", f"{attn}kv_a_proj_with_mqa.weight", c.latent_dim, c.hidden_size)
    yield _plain(f"{file}attn_kv_a_norm.weight", f"{attn}kv_a_layernorm.weight", c.kv_lora_rank)
    kv_b, kv_b_shape = f"{attn}kv_b_proj.weight", (c.n_heads * (c.qk_nope_dim + c.v_dim), c.kv_lora_rank)
    k_b_shape, v_b_shape = (c.n_heads, c.kv_lora_rank, c.qk_nope_dim), (c.n_heads, c.v_dim, c.kv_lora_rank)
    yield TensorLayout(f"{file}attn_k_b.weight", k_b_shape, kv_b, kv_b_shape, transform=key_up)
    yield TensorLayout(f"{file}attn_v_b.weight", v_b_shape, kv_b, kv_b_shape, transform=value_up)
    yield _plain(f"{file}attn_output.weight", f"{attn}o_proj.weight", c.hidden_size, c.n_heads * c.v_dim)
    yield _plain(f"{file}ffn_norm.weight", f"{hf}post_attention_layernorm.weight", c.hidden_size)


def key_up(kv_b: Tensor, c: ModelConfig) -> Tensor:
    """The key half of kv_b_proj, transposed for the absorbed form: [heads, latent, nope]."""
    return _per_head(kv_b, c)[:, : c.qk_nope_dim].transpose(1, 2).contiguous()


def value_up(kv_b: Tensor, c: ModelConfig) -> Tensor:
    """The value half of kv_b_proj: [heads, v, latent]."""
    return _per_head(kv_b, c)[:, c.qk_nope_dim :].contiguous()


def _per_head(kv_b: Tensor, c: ModelConfig) -> Tensor:
    return kv_b.view(c.n_heads, c.qk_nope_dim + c.v_dim, c.kv_lora_rank)


def _swiglu(file: str, hf: str, suffix: str, width: int, c: ModelConfig) -> Iterator[TensorLayout]:
    for part in ("gate", "up"):
        yield _plain(f"{file}ffn_{part}{suffix}.weight", f"{hf}{part}_proj.weight", width, c.hidden_size)
    yield _plain(f"{file}ffn_down{suffix}.weight", f"{hf}down_proj.weight", c.hidden_size, width)


def _dense(c: ModelConfig, layer: int) -> Iterator[TensorLayout]:
    return _swiglu(f"blk.{layer}.", f"model.layers.{layer}.mlp.", "", c.dense_width, c)


def _mixture(c: ModelConfig, layer: int) -> Iterator[TensorLayout]:
    file, hf = f"blk.{layer}.", f"model.layers.{layer}.mlp."
    yield _plain(f"{file}ffn_gate_inp.weight", f"{hf}gate.weight", c.n_experts, c.hidden_size)
    if c.scoring == "sigmoid":
        yield _plain(f"{file}exp_probs_b.bias", f"{hf}gate.e_score_correction_bias", c.n_experts)
    for part in ("gate", "up", "down"):
        shape = (c.hidden_size, c.expert_width) if part == "down" else (c.expert_width, c.hidden_size)
        source = f"{hf}experts.{{part}}.{part}_proj.weight"
        yield TensorLayout(f"{file}ffn_{part}_exps.weight", (c.n_experts, *shape), source, shape, c.n_experts)
    if c.n_shared_experts:
        yield from _swiglu(file, f"{hf}shared_experts.", "_shexp", c.shared_width, c)
