"""The tiny models as transformers runs them: the outside opinion on a forward pass."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import TinyCheckpoint


def reference_model(tiny: TinyCheckpoint) -> nn.Module:
    """A float32 transformers model with the exact weights of `tiny`; `model(ids).logits` is [1, T, vocab]."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields: dict[str, Any] = {k: v for k, v in tiny.text_config.items() if k != "quantization_config"}
    # transformers knows Kimi K2 only under the name of the architecture that it shares.
    model_type = fields.pop("model_type").replace("kimi_k2", "deepseek_v3")
    config = AutoConfig.for_model(model_type, **fields)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    model.load_state_dict(stacked_state(tiny))
    return model.eval()


@torch.no_grad()
def reference_logits(tiny: TinyCheckpoint, ids: list[int]) -> Tensor:
    """Logits [T, vocab] of every position."""
    return reference_model(tiny)(torch.tensor([ids])).logits[0]


def stacked_state(tiny: TinyCheckpoint) -> dict[str, Tensor]:
    """`tiny.state` with a layer's experts as one tensor, and without layers beyond the decoder."""
    count = tiny.text_config["num_hidden_layers"]
    state: dict[str, Tensor] = {}
    for name, value in tiny.state.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= count:
            continue
        expert = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.down_proj\.weight", name)
        if expert and expert[2] == "0":
            state |= _stacked_experts(tiny, expert[1])
        elif ".mlp.experts." not in name:
            state[name] = value
    return state


def _stacked_experts(tiny: TinyCheckpoint, prefix: str) -> dict[str, Tensor]:
    def stack(part: str) -> Tensor:
        count = tiny.text_config["n_routed_experts"]
        return torch.stack([tiny.state[f"{prefix}.{e}.{part}_proj.weight"] for e in range(count)])

    return {
        f"{prefix}.gate_up_proj": torch.cat([stack("gate"), stack("up")], dim=1),
        f"{prefix}.down_proj": stack("down"),
    }
