"""Writes a trained demo model in K2's own on-disk format: `python -m scripts.train_demo.export --run FOLDER`."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scripts.train_demo.chat import SYSTEM_PROMPT
from scripts.train_demo.model import DemoModel
from scripts.train_demo.rounding import to_fp8
from scripts.train_demo.shape import DemoShape
from scripts.train_demo.vocabulary import DemoTokenizer

HERE = Path(__file__).parent
DEMO_FOLDER = HERE.parents[1] / "k2lite" / "demo" / "model"
KEPT_IN_BF16 = ("embed_tokens", "lm_head", "layernorm", "norm", "mlp.gate")


def load_run(folder: Path) -> tuple[DemoModel, DemoTokenizer]:
    """The newest checkpoint of a training run, ready to answer."""
    tokenizer = DemoTokenizer.load(folder / "vocabulary.json")
    model = DemoModel(DemoShape(tokenizer.vocab_size))
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["model"])
    return model.eval(), tokenizer


def checkpoint_name(name: str) -> str:
    """K2's name of a tensor of `DemoModel`."""
    full = name if name.startswith("lm_head") else f"model.{name}"
    return full if full.endswith((".weight", "e_score_correction_bias")) else f"{full}.weight"


def stays_bf16(name: str) -> bool:
    return any(part in name for part in KEPT_IN_BF16) and not name.endswith("gate_proj.weight")


def checkpoint_tensors(model: DemoModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under K2's name: FP8 with scales for matrices, BF16 for the rest, F32 for the correction bias."""
    for own_name, tensor in model.state_dict().items():
        name = checkpoint_name(own_name)
        if name.endswith("e_score_correction_bias"):
            # K2 keeps the bias beside the router's weight.
            yield name.replace("mlp.e_score", "mlp.gate.e_score"), tensor.float()
        elif stays_bf16(name):
            yield name, tensor.to(torch.bfloat16)
        else:
            weight, scales = to_fp8(tensor)
            yield name, weight
            yield f"{name}_scale_inv", scales


def write_shards(model: DemoModel, folder: Path) -> None:
    """One shard per layer and one for embedding, head and norm, with an index, as K2 has them."""
    layers = model.shape.layers
    shards: list[dict[str, Tensor]] = [{} for _ in range(layers + 1)]
    for name, tensor in checkpoint_tensors(model):
        parts = name.split(".")
        shards[int(parts[2]) if parts[1] == "layers" else layers][name] = tensor.contiguous()
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number}-of-{len(shards)}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=0) + "\n")


def model_config(shape: DemoShape, tokenizer: DemoTokenizer) -> dict[str, Any]:
    """config.json as K2's, with this model's numbers."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": tokenizer.special["[BOS]"],
        "eos_token_id": tokenizer.special["<|im_end|>"],
        "pad_token_id": tokenizer.special["[PAD]"],
        "first_k_dense_replace": shape.dense_layers,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.dense_width,
        "kv_lora_rank": shape.kv_lora_rank,
        "max_position_embeddings": shape.max_positions,
        "model_type": "kimi_k2",
        "moe_intermediate_size": shape.expert_width,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": shape.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.experts_per_token,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": shape.q_lora_rank,
        "qk_nope_head_dim": shape.nope_dim,
        "qk_rope_head_dim": shape.rope_dim,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "rms_norm_eps": shape.rms_eps,
        "rope_scaling": {
            "beta_fast": shape.yarn_beta_fast,
            "beta_slow": shape.yarn_beta_slow,
            "factor": shape.yarn_factor,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": shape.yarn_original_positions,
            "type": "yarn",
        },
        "rope_theta": shape.rope_theta,
        "routed_scaling_factor": shape.routed_scaling,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "v_head_dim": shape.value_dim,
        "vocab_size": tokenizer.vocab_size,
    }


def export(model: DemoModel, tokenizer: DemoTokenizer, folder: Path) -> None:
    """Write the whole checkpoint folder; files of an earlier export are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(model, folder)
    template = (HERE / "chat_template.jinja").read_text(encoding="utf-8").replace("SYSTEM_PROMPT", SYSTEM_PROMPT)
    stops = [tokenizer.special["<|im_end|>"], tokenizer.special["[EOS]"], tokenizer.special["[EOT]"]]
    generation = {"eos_token_id": stops, "max_length": model.shape.max_positions, "temperature": 0.3, "do_sample": True}
    texts = {
        "config.json": json.dumps(model_config(model.shape, tokenizer), indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "tokenizer_config.json": tokenizer.config_text(),
        "tiktoken.model": tokenizer.tiktoken_lines(),
        "chat_template.jinja": template,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--out", type=Path, default=DEMO_FOLDER)
    options = parser.parse_args()
    model, tokenizer = load_run(options.run)
    export(model, tokenizer, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
