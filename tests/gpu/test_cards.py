"""Experts in a card's slots and layers on a card, beside the same on the processor."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu_slice import Bench, Slice
from k2lite.attention import AttentionWeights
from k2lite.card_attention import CardAttention, CardAttentionWeights
from k2lite.card_layer import CardFeedForward, CardLayer
from k2lite.card_step import CardStep
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.home import Home
from k2lite.kv_cache import KvCache
from k2lite.recording import CallRecorder, GraphRecorder, Recorder
from k2lite.rope import Rope
from k2lite.synth.families import shape_named
from offload.card_link import CardLink
from offload.card_sending import GROUP
from offload.drive import BLOCK_BYTES
from offload.kernel_card import KernelCard
from offload.multiply import CardWork, SentWork
from offload.slabs import LayerSlabs, StackedTensor
from offload.slots import SizeClass, Slot
from quant.encode.decode import dequantize
from quant.errors import K2Error
from quant.kernels import make_kernels
from quant.kernels.card import CardKernels, make_card_kernels, upload
from quant.kernels.card_floats import CardFloats
from quant.tensor import QuantizedTensor
from quant.types import block_type
from tests.quant.kernels.card_samples import random_blocks

pytestmark = pytest.mark.gpu

EXPERTS, FF, HIDDEN = 12, 512, 1024
ERROR = 1e-2


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.fixture(scope="module")
def slabs() -> LayerSlabs:
    def part(name: str, rows: int, cols: int, offset: int) -> StackedTensor:
        return StackedTensor(Path("none"), offset, block_type(name), (EXPERTS, rows, cols))

    return LayerSlabs((part("Q4_K", FF, HIDDEN, 32), part("Q4_K", FF, HIDDEN, 4096), part("Q6_K", HIDDEN, FF, 96)))


def expert_in_ram(slabs: LayerSlabs, expert: int) -> np.ndarray:
    slot = np.zeros(slabs.slot_bytes, np.uint8)
    start = 0
    for number, part in enumerate(slabs.parts):
        first = start + part.start(expert) % BLOCK_BYTES
        data = random_blocks(part.type, part.shape[1:], 3 * expert + number).data
        slot[first : first + len(data)] = data
        start += part.room_bytes
    return slot


def card_of(slabs: LayerSlabs, device: torch.device, kernels: CardKernels) -> KernelCard:
    classes = [SizeClass(slabs.slot_bytes, EXPERTS)]
    card = KernelCard("card", device, classes, [EXPERTS], {1: slabs}, kernels)
    for expert in range(EXPERTS):
        card.upload((1, expert), expert_in_ram(slabs, expert), Slot(0, (expert * 5) % EXPERTS))
    return card


@pytest.mark.parametrize("tokens", [1, 8, 50])
def test_experts_in_slots(slabs: LayerSlabs, device: torch.device, kernels: CardKernels, tokens: int) -> None:
    on_card = card_of(slabs, device, kernels)
    expected = card_of(slabs, torch.device("cpu"), make_card_kernels("reference"))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(tokens, HIDDEN, generator=generator)
    works = []
    for expert in range(0, EXPERTS, 2):
        chosen = torch.arange(tokens)[expert % 3 :: 2]
        if len(chosen):
            scales = torch.rand(len(chosen), generator=generator)
            works.append(CardWork((1, expert), Slot(0, (expert * 5) % EXPERTS), chosen, scales))
    results = []
    for card in (on_card, expected):
        y = torch.zeros(x.shape)
        card.begin(x, works)(y)
        results.append(y)
    assert relative_error(results[0], results[1]) < ERROR


def test_what_goes_to_a_card_comes_back_while_it_computes(
    slabs: LayerSlabs, device: torch.device, kernels: CardKernels
) -> None:
    card = card_of(slabs, device, kernels)
    x = torch.randn(1, HIDDEN)
    work = CardWork((1, 0), Slot(0, 0), torch.tensor([0]), torch.tensor([1.0]))
    for expert in range(1, EXPERTS):
        result = card.begin(x, [work])
        back = np.zeros(slabs.slot_bytes, np.uint8)
        card.download((1, expert), Slot(0, (expert * 5) % EXPERTS), back)
        assert np.array_equal(back, expert_in_ram(slabs, expert))
        result(torch.zeros(1, HIDDEN))


def test_experts_are_sent_while_others_are_promoted(
    slabs: LayerSlabs, device: torch.device, kernels: CardKernels
) -> None:
    card = card_of(slabs, device, kernels)
    expected_card = card_of(slabs, torch.device("cpu"), make_card_kernels("reference"))
    x, chosen = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(9)), torch.arange(0, 40, 2)
    scales = torch.ones(len(chosen))
    sent = [SentWork((1, e), lambda e=e: expert_in_ram(slabs, e), chosen, scales) for e in range(EXPERTS)]
    for _ in range(3):
        found, expected = torch.zeros(x.shape), torch.zeros(x.shape)
        add_result = card.sending.begin(x, sent)
        for expert in range(EXPERTS):
            card.upload((1, expert), expert_in_ram(slabs, expert), Slot(0, (expert * 5) % EXPERTS))
        add_result(found)
        works = [CardWork((1, e), Slot(0, (e * 5) % EXPERTS), chosen, scales) for e in range(EXPERTS)]
        expected_card.begin(x, works)(expected)
        assert relative_error(found, expected) < ERROR
        on_card = torch.zeros(x.shape)
        card.begin(x, works)(on_card)
        assert relative_error(on_card, expected) < ERROR


def test_who_comes_ahead_into_lent_slots_is_multiplied(
    slabs: LayerSlabs, device: torch.device, kernels: CardKernels
) -> None:
    card = card_of(slabs, device, kernels)
    expected_card = card_of(slabs, torch.device("cpu"), make_card_kernels("reference"))
    x, chosen = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(9)), torch.arange(0, 40, 2)
    scales, copied = torch.ones(len(chosen)), []

    def content(expert: int) -> np.ndarray:
        copied.append(expert)
        return expert_in_ram(slabs, expert)

    works = [SentWork((1, e), partial(content, e), chosen, scales) for e in range(1, EXPERTS)]
    expected = torch.zeros(x.shape)
    expected_card.sending.begin(x, works)(expected)
    card.sending.lend([Slot(0, index) for index in range(4)])
    for round_number in range(3):
        copied.clear()
        card.sending.send_ahead([((1, e), partial(content, e)) for e in range(GROUP)])
        card.sending._thread.submit(int).result()
        assert card.sending.end_ahead() == [(1, e) for e in range(GROUP)]
        found = torch.zeros(x.shape)
        card.sending.begin(x, works)(found)
        assert relative_error(found, expected) < ERROR, round_number
        assert copied == list(range(EXPERTS))  # each once, whoever came ahead
    assert len(card.sending.take_back()) == 4


def small_config() -> ModelConfig:
    """K2's, with fewer heads."""
    fewer = {"num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 16}
    return config_from_json(shape_named("k2").config | fewer)


def attention_weights(c: ModelConfig) -> AttentionWeights:
    def weights(shape: tuple[int, ...], seed: int) -> QuantizedTensor:
        return random_blocks(block_type("Q8_0"), shape, seed)

    def norm(size: int) -> Tensor:
        return torch.rand(size, generator=torch.Generator().manual_seed(size)) + 0.5

    assert c.q_lora_rank is not None
    return AttentionWeights(
        norm=norm(c.hidden_size),
        q=None,
        q_a=weights((c.q_lora_rank, c.hidden_size), 1),
        q_a_norm=norm(c.q_lora_rank),
        q_b=weights((c.n_heads * c.head_dim, c.q_lora_rank), 2),
        kv_a=weights((c.latent_dim, c.hidden_size), 3),
        kv_a_norm=norm(c.kv_lora_rank),
        k_b=weights((c.n_heads, c.kv_lora_rank, c.qk_nope_dim), 4),
        v_b=weights((c.n_heads, c.v_dim, c.kv_lora_rank), 5),
        output=weights((c.hidden_size, c.n_heads * c.v_dim), 6),
    )


@pytest.mark.parametrize(("tokens", "before"), [(1, 0), (1, 300), (5, 64), (200, 0), (200, 100)])
def test_attention(device: torch.device, kernels: CardKernels, tokens: int, before: int) -> None:
    c = small_config()
    weights = attention_weights(c)
    assert torch.isfinite(dequantize(weights.kv_a)).all()
    x = torch.randn(tokens, c.hidden_size, generator=torch.Generator().manual_seed(7))
    past = torch.randn(before, c.latent_dim, generator=torch.Generator().manual_seed(8))
    updates = []
    for where, made in ((device, kernels), (torch.device("cpu"), make_card_kernels("reference"))):
        home = Home("card", where, is_card=True, cache_type=torch.bfloat16)
        cache = KvCache(c, before + tokens, [home] * c.n_layers)
        cache.write(0, past.to(where))
        cache.advance(before)
        attention = CardAttention(CardAttentionWeights.on(where, weights), c, CardFloats(made))
        cosines, sines = (table.to(where) for table in Rope(c).rotations(before, tokens))
        updates.append((attention(x.to(where), 0, cache, (cosines, sines)) - x.to(where)).cpu())
    assert relative_error(updates[0], updates[1]) < ERROR


def test_a_layer_as_graphs_computes_what_calls_do(
    device: torch.device, kernels: CardKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dense layer over windows that grow, token by token, while another thread copies to the card."""
    monkeypatch.setattr("k2lite.card_step._SMALLEST_WINDOW", 16)
    c = small_config()
    home = Home("card", device, is_card=True, cache_type=torch.bfloat16)
    floats, width = CardFloats(kernels), 1024
    dense = CardFeedForward(
        *(upload(random_blocks(block_type("Q4_K"), (width, c.hidden_size), seed), device) for seed in (21, 22)),
        upload(random_blocks(block_type("Q4_K"), (c.hidden_size, width), 23), device),
        floats,
    )
    norm = torch.ones(c.hidden_size, device=device)
    streams = []
    for recorder in (GraphRecorder(device), CallRecorder()):
        attention = CardAttention(CardAttentionWeights.on(device, attention_weights(c)), c, floats)
        step = CardStep(device, c, recorder)
        layer = CardLayer(home, step, attention, c.rms_eps, dense_norm=norm, dense=dense)
        cache, found = KvCache(c, 70, [home] * c.n_layers), []
        with torch.inference_mode(), ThreadPoolExecutor(1) as other:
            copies = other.submit(copy_often, CardLink(device, 8 << 20), device)
            for position in range(70):
                x = torch.randn(1, c.hidden_size, generator=torch.Generator().manual_seed(position)).to(device)
                turned = tuple(table.to(device) for table in Rope(c).rotations(position, 1))
                found.append(layer.forward(0, x, cache, turned, Nobody()).cpu())
                cache.advance(1)
            copies.result()
        streams.append(torch.cat(found))
    assert torch.equal(streams[0], streams[1])


def test_a_token_through_all_layers_in_one_native_call(device: torch.device, kernels: CardKernels) -> None:
    """Half of the experts are in RAM; against layer after layer, with graphs and without."""
    try:
        host = make_kernels("native", 2)
    except K2Error as error:
        pytest.skip(f"no native code here: {error}")
    small = {"hidden_size": 1024, "moe_intermediate_size": 512, "q_lora_rank": 512}
    small |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    bench = Bench(device, kernels, host, small)
    streams = [decoded(bench, recorder) for recorder in (GraphRecorder(device), CallRecorder())]
    assert torch.isfinite(streams[0]).all()
    assert torch.equal(streams[0], streams[1])
    host.close()


def decoded(bench: Bench, recorder: Recorder) -> Tensor:
    """What comes out of three layers for 40 tokens, one after the other."""
    torch.manual_seed(3)
    part = Slice(bench, recorder, layers=3, experts=16, slots=24)
    part.put_on_card((layer, expert) for layer in range(3) for expert in range(0, 16, 2))
    part.promote(0.0)
    cache, found = part.cache(0, 40), []
    for position in range(40):
        x = torch.randn(1, part.config.hidden_size, generator=torch.Generator().manual_seed(position))
        found.append(part.forward(x.to(bench.device), cache).cpu().clone())
    card_pass = part._passes[0]
    assert (card_pass._call is not None) == (recorder.calls is not None)
    part.close()
    return torch.cat(found)


class Nobody:
    """Experts of a layer that has none."""

    def announce(self, layer: int, stream: Tensor) -> None:
        """Nothing to read ahead."""


def copy_often(link: CardLink, device: torch.device) -> None:
    source, target = np.ones(8 << 20, np.uint8), torch.empty(8 << 20, dtype=torch.uint8, device=device)
    for _ in range(100):
        link.upload([(source, target)])
