"""Attention of many tokens at Kimi K2's width: one native call, and in turn the same steps in torch's float32.

    python -m benchmarks.attention [--tokens 512] [--cached 0] [--rounds 7]

Both take queries and cached latents to what the heads give to the output product; decoding k_b and v_b counts as ours,
torch is given them decoded. Medians, least and most; operations are those of the form with expanded keys and values.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from offload.probe_host import usable_cores  # noqa: E402
from quant.kernels.fused import LatentAttention  # noqa: E402
from quant.kernels.native import NativeKernels  # noqa: E402
from quant.types import block_type  # noqa: E402
from tests.quant.random_weights import exact_values, random_weights  # noqa: E402

HEADS, NOPE, ROPE, LATENT, VALUE = 64, 128, 64, 512, 128


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--cached", type=int, default=0, help="positions before them")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    tokens, positions = options.tokens, options.cached + options.tokens
    torch.set_num_threads(usable_cores())
    kernels, attention = NativeKernels(usable_cores()), _attention()
    native = kernels.prepare_head_attention(attention)
    assert native is not None
    queries, cache = torch.randn(tokens, HEADS * (NOPE + ROPE)), torch.randn(positions, LATENT + ROPE)
    still = torch.ones(tokens, ROPE // 2), torch.zeros(tokens, ROPE // 2)  # torch leaves rotating out
    key_up, value_up = (exact_values(w).float() for w in (attention.k_b, attention.v_b))
    sides: dict[str, Callable[[], Tensor]] = {
        "native": lambda: native(queries, cache, options.cached, still),
        "torch": lambda: _in_torch(queries, cache, key_up, value_up, attention.scale),
    }
    torch.testing.assert_close(sides["native"](), sides["torch"](), rtol=1e-3, atol=1e-3)
    pairs = tokens * options.cached + tokens * (tokens + 1) / 2
    operations = 2 * HEADS * (positions * LATENT * (NOPE + VALUE) + pairs * (NOPE + ROPE + VALUE))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, compute in sides.items():
            started = time.perf_counter()
            compute()
            seconds[name].append(time.perf_counter() - started)
    for name, found in seconds.items():
        middle = statistics.median(found)
        spread = f"{1e3 * min(found):.1f} to {1e3 * max(found):.1f}"
        print(f"{name:8} {1e3 * middle:6.1f} ms ({spread}), {operations / middle / 1e9:.0f} GFLOP/s")
    kernels.close()
    return 0


def _attention() -> LatentAttention:
    """Heads of Kimi K2 in the types that a Q4_K_M file has; what is not used here is small."""
    floats = block_type("F32")
    return LatentAttention(
        norm=torch.ones(8),
        q_a=None,
        q_a_norm=None,
        q_b=random_weights(floats, (HEADS * (NOPE + ROPE), 8)),
        kv_a=random_weights(floats, (LATENT + ROPE, 8)),
        kv_a_norm=torch.ones(LATENT),
        k_b=random_weights(block_type("Q5_0"), (HEADS, LATENT, NOPE)),
        v_b=random_weights(block_type("Q4_K"), (HEADS, VALUE, LATENT)),
        output=random_weights(floats, (8, HEADS * VALUE)),
        rope_dim=ROPE,
        eps=1e-6,
        lora_eps=1e-6,
        scale=0.2 / LATENT,
    )


def _in_torch(queries: Tensor, cache: Tensor, key_up: Tensor, value_up: Tensor, scale: float) -> Tensor:
    tokens, positions = len(queries), len(cache)
    latents, rotary = cache.split([LATENT, ROPE], dim=-1)
    keys = torch.cat([latents @ key_up, rotary.expand(HEADS, -1, -1)], dim=-1)
    scores = (queries.view(tokens, HEADS, -1).transpose(0, 1) @ keys.transpose(1, 2)).mul_(scale)
    scores.masked_fill_(torch.ones(tokens, positions, dtype=torch.bool).triu_(positions - tokens + 1), float("-inf"))
    taken = scores.softmax(-1) @ (latents @ value_up.transpose(1, 2))
    return taken.transpose(0, 1).flatten(1)


if __name__ == "__main__":
    raise SystemExit(main())
