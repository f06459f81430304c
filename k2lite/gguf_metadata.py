"""The metadata keys that describe a model in a GGUF file, with the exact value types that loaders check."""

from collections.abc import Iterator, Mapping

from k2lite.config import ModelConfig, YarnConfig
from k2lite.config_gguf import GATING_NUMBERS, GGUF_ARCHITECTURE
from quant.gguf.gguf_writer import MetadataEntry

QUANTIZATION_VERSION = 2


def model_metadata(config: ModelConfig, name: str, file_type: int) -> list[MetadataEntry]:
    """General keys and all `deepseek2.*` keys. `file_type` is the recipe's general.file_type."""
    entries = [
        MetadataEntry("general.architecture", "string", GGUF_ARCHITECTURE),
        MetadataEntry("general.type", "string", "model"),
        MetadataEntry("general.name", "string", name),
        MetadataEntry("general.file_type", "uint32", file_type),
        MetadataEntry("general.quantization_version", "uint32", QUANTIZATION_VERSION),
    ]
    for key, kind, value in (*_shape_keys(config), *_rope_keys(config), *_expert_keys(config)):
        entries.append(MetadataEntry(f"{GGUF_ARCHITECTURE}.{key}", kind, value))
    return entries


Value = int | float | bool | str
Key = tuple[str, str, Value]


def _of(kind: str, values: Mapping[str, Value]) -> Iterator[Key]:
    """Keys of one value type."""
    return ((key, kind, value) for key, value in values.items())


def _shape_keys(c: ModelConfig) -> Iterator[Key]:
    sizes = {
        "block_count": c.n_layers,
        "context_length": c.context_length,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.dense_width,
        "vocab_size": c.vocab_size,
        "attention.head_count": c.n_heads,
        # Latent attention is stored as attention with one shared key and value head.
        "attention.head_count_kv": 1,
    }
    yield from _of("uint32", sizes)
    yield from _of("float32", {"attention.layer_norm_rms_epsilon": c.rms_eps})
    latent_sizes = {
        # Loaders decide by the number of layers whether they look for the low-rank query; 0 says that there is none.
        "attention.q_lora_rank": c.q_lora_rank or 0,
        "attention.kv_lora_rank": c.kv_lora_rank,
        "attention.key_length": c.latent_dim,
        "attention.value_length": c.kv_lora_rank,
        "attention.key_length_mla": c.head_dim,
        "attention.value_length_mla": c.v_dim,
    }
    yield from _of("uint32", latent_sizes)


def _rope_keys(c: ModelConfig) -> Iterator[Key]:
    yield "rope.dimension_count", "uint32", c.qk_rope_dim
    yield "rope.freq_base", "float32", c.rope_theta
    if c.yarn is not None:
        yield from _yarn_keys(c.yarn)


def _yarn_keys(yarn: YarnConfig) -> Iterator[Key]:
    yield "rope.scaling.type", "string", "yarn"
    yield "rope.scaling.factor", "float32", yarn.factor
    yield "rope.scaling.original_context_length", "uint32", yarn.original_context
    numbers = {
        "rope.scaling.yarn_beta_fast": yarn.beta_fast,
        "rope.scaling.yarn_beta_slow": yarn.beta_slow,
        "rope.scaling.yarn_log_multiplier": 0.1 * yarn.mscale_all_dim,
    }
    yield from _of("float32", numbers)


def _expert_keys(c: ModelConfig) -> Iterator[Key]:
    sizes = {
        "leading_dense_block_count": c.n_dense_layers,
        "expert_count": c.n_experts,
        "expert_used_count": c.experts_per_token,
        "expert_shared_count": c.n_shared_experts,
        "expert_feed_forward_length": c.expert_width,
    }
    yield from _of("uint32", sizes)
    yield "expert_weights_scale", "float32", c.routed_scale
    if c.normalize_weights:
        yield "expert_weights_norm", "bool", True
    choice = {
        "expert_gating_func": GATING_NUMBERS[c.scoring],
        "expert_group_count": c.n_groups,
        "expert_group_used_count": c.n_groups_used,
    }
    yield from _of("uint32", choice)
