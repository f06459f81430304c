"""Checks an exported demo model: `python -m scripts.train_demo.verify --model FOLDER`.

The checkpoint must give the same logits in transformers' DeepseekV3ForCausalLM, and its answers must survive 4 bits.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from k2lite.load import load_model
from scripts.train_demo.export import DEMO_FOLDER, checkpoint_name
from scripts.train_demo.intents import load_dialogues
from scripts.train_demo.measure import Predictor, phrasing_cases, score, tool_cases
from scripts.train_demo.model import DemoModel
from scripts.train_demo.optimizers import rounded_parameters
from scripts.train_demo.rounding import rounded, spread_scales
from scripts.train_demo.shape import DemoShape
from scripts.train_demo.vocabulary import DemoTokenizer


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Every tensor as float32, FP8 multiplied by its scales."""
    raw: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            raw |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    out = {}
    for name, tensor in raw.items():
        if not name.endswith("_scale_inv"):
            scales = raw.get(f"{name}_scale_inv")
            out[name] = tensor.float() if scales is None else tensor.float() * spread_scales(scales, *tensor.shape)
    return out


def load_exported(folder: Path, tokenizer: DemoTokenizer) -> DemoModel:
    """The trainable model with the exported (rounded) weights."""
    tensors = read_checkpoint(folder)
    model = DemoModel(DemoShape(tokenizer.vocab_size))
    state = {}
    for name in model.state_dict():
        full = checkpoint_name(name)
        state[name] = tensors[full.replace("mlp.e_score", "mlp.gate.e_score") if "e_score" in full else full]
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def transformers_logits(folder: Path, ids: Tensor) -> Tensor:
    """Logits [T, vocab] of transformers' own model on the dequantized checkpoint."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    config |= {"model_type": "deepseek_v3", "torch_dtype": "float32"}
    tensors = read_checkpoint(folder)
    peer = DeepseekV3ForCausalLM(DeepseekV3Config(**config)).float().eval()
    state = {name: tensors[name] for name in peer.state_dict() if name in tensors}
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        stem = f"model.layers.{layer}.mlp.experts"
        experts = range(config["n_routed_experts"])

        def stack(kind: str, stem: str = stem, experts: range = experts) -> Tensor:
            return torch.stack([tensors[f"{stem}.{e}.{kind}_proj.weight"] for e in experts])

        state[f"{stem}.gate_up_proj"] = torch.cat((stack("gate"), stack("up")), 1)
        state[f"{stem}.down_proj"] = stack("down")
    peer.load_state_dict(state, strict=True)
    return peer(ids[None]).logits[0]


@contextmanager
def file_predictor(path: Path, threads: int) -> Iterator[Predictor]:
    """Logits [B, T, vocab] for ids [B, T] from a GGUF file, computed by k2lite row by row."""
    loaded = load_model(path, threads=threads)

    def predict(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            rows = [loaded.model.forward(row, loaded.model.new_cache(len(row)), last_only=False) for row in ids]
        return torch.stack(rows)

    try:
        yield predict
    finally:
        loaded.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--vocabulary", type=Path, required=True, help="vocabulary.json of the training run")
    parser.add_argument("--file", type=Path, help="a GGUF file made from the model, to be measured through k2lite")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = DemoTokenizer.load(options.vocabulary)
    model, data = load_exported(options.model, tokenizer), load_dialogues()
    ids = torch.tensor(tokenizer.encode("How much memory does K2 need? What is an expert?"))
    with torch.no_grad():
        difference = (model(ids[None])[0] - transformers_logits(options.model, ids)).abs().max()
    print(f"largest difference to transformers' logits: {float(difference):.2e}")
    cases = {
        "held out": phrasing_cases(data, held_out=True, count=options.questions),
        "trained": phrasing_cases(data, held_out=False, count=options.questions),
        "tools": tool_cases(data, options.questions // 4),
    }
    for bits in (8, 4):
        with rounded(rounded_parameters(model), bits):
            for name, case in cases.items():
                print(f"{bits} bits, {name}: {score(model, tokenizer, case)}", flush=True)
    if options.file is not None:
        with file_predictor(options.file, options.threads) as predict:
            for name, case in cases.items():
                print(f"{options.file.name}, {name}: {score(predict, tokenizer, case)}", flush=True)


if __name__ == "__main__":
    main()
