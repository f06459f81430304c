"""Cards that torch has not got: their memory is the processor's, and their kernels are the reference's."""

import math
from pathlib import Path

import pytest
import torch

from k2lite.plan_model import model_named
from offload import card_devices
from offload.card_buffers import SHORTEST_CHUNK
from offload.machine import CARD_RESERVE
from quant.kernels.card import make_card_kernels


def buffer_bytes(path: Path, context_tokens: int) -> int:
    """What a card takes to compute with a model, in chunks as short as they get."""
    return model_named(str(path), None).buffers.bytes_of(SHORTEST_CHUNK, context_tokens)


def simulate_cards(monkeypatch: pytest.MonkeyPatch, count: int, usable_bytes: int, buffers: int = 1 << 30) -> int:
    """`count` cards, each with `usable_bytes` besides its buffers; returns what each has free."""
    free = math.ceil((buffers + usable_bytes) / (1 - CARD_RESERVE))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(card_devices.PoolCard, "device", torch.device("cpu"))
    monkeypatch.setattr(card_devices, "block_kernels", lambda: make_card_kernels("reference"))
    return free
