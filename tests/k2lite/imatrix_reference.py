"""What the weights of a tiny model are multiplied with, as transformers and llama.cpp compute it."""

import ctypes
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from quant.imatrix.imatrix_file import Statistics
from tests.tiny import TinyCheckpoint
from tests.tiny_reference import reference_model

LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


@torch.no_grad()
def reference_statistics(tiny: TinyCheckpoint, chunks: Tensor) -> dict[str, Statistics]:
    """Of every weight in the layers, by its GGUF name, from a transformers model in float64; chunks [n, T]."""
    model = reference_model(tiny).double()
    seen: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or name.endswith("mlp.experts"):
            module.register_forward_hook(partial(_remember, seen[name]))
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for chunk in chunks:
        attentions = model(chunk[None], output_attentions=True).attentions
        for layer, attention in enumerate(attentions):
            for name, x in _inputs(tiny.text_config, seen, f"model.layers.{layer}.", attention[0]).items():
                squares = torch.stack([rows.square().sum(0) for rows in x])
                rows = torch.tensor([len(rows) for rows in x], dtype=torch.float64)
                weight = f"blk.{layer}.{name}.weight"
                sums[weight] = sums.get(weight, 0) + squares
                counts[weight] = counts.get(weight, 0) + rows
    return {name: _statistics(name, sums[name], counts[name]) for name in sums}


def _remember(place: dict[str, Any], module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    place["module"], place["in"], place["out"] = module, inputs, output


def _inputs(config: dict[str, Any], seen: dict[str, Any], prefix: str, attention: Tensor) -> dict[str, list[Tensor]]:
    """Per weight one list of rows for each of its matrices."""
    found = {
        ours: [seen[prefix + theirs]["in"][0].flatten(0, -2)]
        for theirs, ours in LINEARS.items()
        if prefix + theirs in seen
    }
    queries = seen[prefix + ("self_attn.q_b_proj" if config["q_lora_rank"] else "self_attn.q_proj")]["out"][0]
    nope, heads = config["qk_nope_head_dim"], config["num_attention_heads"]
    latent = seen[prefix + "self_attn.kv_b_proj"]["in"][0][0]
    found["attn_k_b"] = list(queries.view(len(queries), heads, -1)[..., :nope].transpose(0, 1))
    found["attn_v_b"] = list(attention.to(latent.dtype) @ latent)
    if prefix + "mlp.experts" in seen:
        found |= _expert_inputs(seen[prefix + "mlp.experts"])
    return found


def _expert_inputs(seen: dict[str, Any]) -> dict[str, list[Tensor]]:
    module, (x, chosen, _) = seen["module"], seen["in"]
    rows, hidden = [], []
    for expert, gate_up in enumerate(module.gate_up_proj):
        rows.append(x[(chosen == expert).any(-1)])
        gate, up = (rows[-1] @ gate_up.T).chunk(2, dim=-1)
        hidden.append(silu(gate) * up)
    return {"ffn_gate_exps": rows, "ffn_up_exps": rows, "ffn_down_exps": hidden}


def _statistics(name: str, sums: Tensor, counts: Tensor) -> Statistics:
    """As a file has them: all heads are one group."""
    if "_exps" in name:
        return Statistics(sums.numpy(), counts.numpy())
    return Statistics(sums.reshape(1, -1).numpy(), counts[:1].numpy())


def llama_cpp_statistics(path: Path, chunks: Tensor, **options: Any) -> dict[str, Statistics]:
    """The same from llama.cpp, which shows every product to a callback: how its own imatrix tool is fed."""
    import llama_cpp.llama_cpp as api

    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}

    def collect(address: int, ask: bool, _: Any) -> bool:
        product = _Node.at(address)
        if product.op_name not in ("MUL_MAT", "MUL_MAT_ID"):
            return not ask
        weight = product.source(0)
        if not weight.name.startswith("blk.") or product.source(1).raw.type != 0:
            return not ask
        if not ask:
            x = product.source(1).values(np.float32)
            experts = product.source(2).values(np.int32)[0, 0] if product.op_name == "MUL_MAT_ID" else None
            squares, rows = _squares(x, experts, weight.raw.ne[2])
            sums[weight.name] = sums.get(weight.name, 0) + squares
            counts[weight.name] = counts.get(weight.name, 0) + rows
        return True

    callback = api.ggml_backend_sched_eval_callback(collect)
    parameters = api.llama_context_default_params()
    tokens = chunks.shape[1]
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = max(tokens, 256), tokens, tokens
    parameters.n_threads = parameters.n_threads_batch = 2
    parameters.type_k = parameters.type_v = 0
    parameters.flash_attn_type = 0  # it rounds to half precision
    for name, value in options.items():
        setattr(parameters, name, value)
    parameters.cb_eval = callback
    model = api.llama_model_load_from_file(bytes(path), api.llama_model_default_params())
    context = api.llama_init_from_model(model, parameters)
    for chunk in chunks:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        # The last layer computes only those tokens whose logits are wanted: the tool wants all.
        ids, wanted = (api.llama_token * tokens)(*chunk.tolist()), (ctypes.c_int8 * tokens)(*[1] * tokens)
        batch = api.llama_batch_get_one(ids, tokens)
        batch.logits = wanted
        assert api.llama_decode(context, batch) == 0
    api.llama_free(context)
    api.llama_model_free(model)
    return {name: Statistics(sums[name], counts[name]) for name in sums}


def _squares(x: np.ndarray, experts: np.ndarray | None, matrices: int) -> tuple[np.ndarray, np.ndarray]:
    """x [1, heads or tokens, rows, cols] -> sums of squares and counts, as a file has them."""
    squares = x[0].astype(np.float64) ** 2
    if experts is None:
        return squares.sum(1).reshape(1, -1), np.array([x.shape[2]])
    sums, counts = np.zeros((matrices, x.shape[3])), np.zeros(matrices)
    for token, chosen in enumerate(experts):
        for place, expert in enumerate(chosen):
            sums[expert] += squares[token, place % x.shape[2]]
            counts[expert] += 1
    return sums, counts


class _Node:
    """A tensor of llama.cpp's graph, in this process's memory."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.name = raw.name.decode()

    @classmethod
    def at(cls, address: int) -> "_Node":
        from quant.ggml_library import Tensor as Raw

        return cls(Raw.from_address(address))

    @property
    def op_name(self) -> str:
        return {29: "MUL_MAT", 30: "MUL_MAT_ID"}.get(self.raw.op, "")

    def source(self, index: int) -> "_Node":
        return _Node.at(self.raw.src[index])

    def values(self, dtype: type) -> np.ndarray:
        """A copy in numpy order, slowest dimension first."""
        shape, strides = tuple(self.raw.ne)[::-1], tuple(self.raw.nb)[::-1]
        size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
        data = np.frombuffer((ctypes.c_uint8 * size).from_address(self.raw.data), np.uint8)
        return np.lib.stride_tricks.as_strided(data.view(dtype)[:1], shape, strides).copy()
