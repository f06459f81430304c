"""A head that looks one token back, put into the first layer by construction.

Copying (tool arguments, names, lists) is learnt as a pair of heads: one that notes for each token what came before it,
one that finds where the present token came before. The first of the two takes a small model most of its training to
find; given it, the second comes within a few hundred steps. Training may change it freely.
"""

import torch
from torch import Tensor

from scripts.train_demo.model import DemoModel, LatentAttention

PAIRS = 5  # of the fastest rotary pairs; slower ones hardly tell neighbours apart
SHARPNESS = 8.0  # attention score per pair
CONSTANT = 0.4  # of an embedding's length along the direction that all embeddings share


@torch.no_grad()
def install_previous_token_head(model: DemoModel, head: int = 0) -> None:
    """Make `head` of layer 0 attend to the token before. Its keys and queries become constant vectors, turned against
    each other by one position, so that the score has its peak at distance 1."""
    direction = torch.zeros(model.shape.hidden)
    direction[0] = 1.0
    embedding = model.embed_tokens
    length = float(embedding.norm(dim=1).mean())
    embedding[:, 0] = CONSTANT * length
    _point_back(model, model.attentions()[0], direction, head)


def _point_back(model: DemoModel, attention: LatentAttention, direction: Tensor, head: int) -> None:
    s = model.shape
    inputs = model.layers[0].get_submodule("input_layernorm")(model.embed_tokens)
    amplitude = (SHARPNESS / s.softmax_scale) ** 0.5

    attention.q_a_proj[0] = direction * 0.5
    seen = attention.q_a_layernorm(inputs @ attention.q_a_proj.T)[:, 0].mean()
    angles = model.frequencies[:PAIRS]
    query = torch.zeros(s.qk_dim)
    query[s.nope_dim :: 2][:PAIRS] = angles.cos() * amplitude
    query[s.nope_dim + 1 :: 2][:PAIRS] = -angles.sin() * amplitude
    rows = attention.q_b_proj.view(s.heads, s.qk_dim, s.q_lora_rank)[head]
    rows.zero_()
    rows[:, 0] = query / seen

    key = torch.zeros(s.rope_dim)
    key[0 : 2 * PAIRS : 2] = amplitude
    constant = (inputs @ direction).mean()
    attention.kv_a_proj_with_mqa[s.kv_lora_rank :] = key[:, None] * direction / constant
