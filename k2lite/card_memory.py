"""What a model's chunk takes on a card besides weights and cache, added up from what each part computes at a time.

Three streams of work have memory of their own, which torch does not share between them: the layers, the experts in the
card's slots, and those that are sent there.
"""

from k2lite.card_parts import LOGIT_TOKENS, PART_TOKENS, SCORE_VALUES, SCRATCH_VALUES, feed_forward_tokens
from k2lite.config import ModelConfig
from offload.card_buffers import LONGEST_CHUNK, CardBuffers
from offload.card_sending import GROUP, STAGED
from offload.chunk_in_ram import ATTENTION_TOKENS
from quant.kernels.card_scratch import PIECE_WEIGHTS, experts_together, places_together

_FLOAT, _HALF = 4, 2  # bytes of a float32 and of a bfloat16
# The driver's context, the modules of torch, cuBLAS and Triton, cuBLAS's workspaces, and what the recordings for single
# tokens keep: an allowance, not measured. Contexts with torch usually take 300 to 450 MiB.
CONTEXT_BYTES = 512 << 20
# Of a score: it is made and scaled, its softmax, and that in 16 bits.
_SCORE_BYTES = 2 * _FLOAT + _HALF
# Behind a pair of a token and an expert on the card: slot, weight, its place and what sorting takes.
_PAIR_BYTES = 64
# A slot begins at a block of the drive for each of an expert's matrices.
_SLOT_EXCESS = 3 * 8192


def card_buffers(config: ModelConfig, largest_expert_bytes: int) -> CardBuffers:
    """For a model whose largest expert has so many bytes."""
    attended, most_attended = _attended_bytes(config)
    others = feed_forward_bytes(config), routing_bytes(config), logit_bytes(config)
    has_experts = config.n_dense_layers < config.n_layers
    staged = STAGED * (largest_expert_bytes + _SLOT_EXCESS) + _experts_bytes(config)
    return CardBuffers(
        fixed=CONTEXT_BYTES + staged * has_experts,
        token=stream_bytes(config) + 2 * expert_token_bytes(config) * has_experts,
        position=recorded_bytes(config),
        other=max(others),
        attention=attention_bytes(config),
        attended=attended,
        most_attended=most_attended,
    )


def stream_bytes(c: ModelConfig) -> int:
    """Of a token: its stream and its angles."""
    return _FLOAT * (c.hidden_size + c.qk_rope_dim)


def expert_token_bytes(c: ModelConfig) -> int:
    """Of a token, for experts in slots as for those that are sent: its norm in 16 bits, the experts' sum, and its
    experts."""
    return (_HALF + _FLOAT) * c.hidden_size + _PAIR_BYTES * c.experts_per_token


def expert_scratch_bytes(c: ModelConfig, experts: int) -> int:
    """Of products with experts: gate and up of some decoded, or their results behind down, which come later."""
    together = min(experts, c.n_experts, experts_together(c.expert_width, c.hidden_size))
    matrices = 2 * together * c.expert_width * c.hidden_size * _HALF
    places = min(places_together(c.hidden_size), LONGEST_CHUNK * c.experts_per_token)
    return matrices + places * (_HALF * c.expert_width + _FLOAT * c.hidden_size)


def attention_bytes(c: ModelConfig) -> int:
    """Of a part of the attention, besides what grows with the positions: norm, queries as products make them, turned
    and in 16 bits, results, and their product with the output, as it is made and added; and decoded weights."""
    values = c.n_heads * (c.head_dim * (2 * _FLOAT + _HALF) + c.v_dim * (_FLOAT + 2 * _HALF))
    up = c.n_heads * c.kv_lora_rank * (c.qk_nope_dim + c.v_dim) * (_FLOAT + _HALF)
    queries = c.n_heads * c.head_dim * (c.q_lora_rank or c.hidden_size)
    decoded = max(up, _HALF * max(queries, c.n_heads * c.v_dim * c.hidden_size))
    return ATTENTION_TOKENS * (values + 4 * _FLOAT * c.hidden_size) + decoded


def feed_forward_bytes(c: ModelConfig) -> int:
    """Of a part of the widest feed-forward block: norm and result as they are made, gate, up and their product, and a
    decoded matrix, which NF4 is as a whole."""
    widths = [c.dense_width] * (c.n_dense_layers > 0) + [c.shared_width] * (c.n_shared_experts > 0)
    each = (
        feed_forward_tokens(width) * 3 * _FLOAT * (c.hidden_size + width) + _HALF * width * c.hidden_size
        for width in widths
    )
    return max(each, default=0)


def routing_bytes(c: ModelConfig) -> int:
    """Of a part that is routed: norm as it is made, scores, and what crosses to the host; what comes back is less."""
    return PART_TOKENS * _FLOAT * (3 * c.hidden_size + 6 * c.n_experts)


def logit_bytes(c: ModelConfig) -> int:
    """Of tokens whose logits are asked for, and a piece of the head."""
    logits = LOGIT_TOKENS * (_FLOAT + _HALF) * (c.vocab_size + c.hidden_size)
    return logits + _HALF * min(PIECE_WEIGHTS, c.vocab_size * c.hidden_size)


def recorded_bytes(c: ModelConfig) -> int:
    """Of a position that a single token looks at: its scores, in a recording and in what was run to make that."""
    return 2 * c.n_heads * _SCORE_BYTES


def _attended_bytes(c: ModelConfig) -> tuple[int, int]:
    """Of a position, were it seen by all heads at once; and how much there is at most, as heads are taken in turn.

    A long part expands keys (as they are made and put together) and values, a short one has scores.
    """
    expanded = _HALF * (c.qk_nope_dim + c.head_dim + c.v_dim)
    most_expanded = SCRATCH_VALUES // (c.head_dim + c.v_dim) * expanded
    # See naive_is_cheaper: behind many positions, which form is cheaper depends on the part's tokens alone.
    up, saved = c.qk_nope_dim + c.v_dim, c.latent_dim + c.kv_lora_rank - c.head_dim - c.v_dim
    few = min(ATTENTION_TOKENS, c.kv_lora_rank * up // saved + 1) if saved > 0 else ATTENTION_TOKENS
    return c.n_heads * max(expanded, few * _SCORE_BYTES), max(most_expanded, SCORE_VALUES * _SCORE_BYTES)


def _experts_bytes(c: ModelConfig) -> int:
    """Of both ways to multiply experts; those that are sent have the rows of a few apart from the others."""
    rows = min(places_together(c.hidden_size), LONGEST_CHUNK) * (_HALF + _FLOAT) * c.hidden_size
    return expert_scratch_bytes(c, c.n_experts) + expert_scratch_bytes(c, GROUP) + rows
