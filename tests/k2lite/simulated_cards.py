"""Cards that torch has not got: their memory is the processor's, and their kernels are the reference's."""

import pytest
import torch

from offload import card_devices
from offload.machine import CARD_BUFFER_BYTES, CARD_RESERVE
from quant.kernels.card import make_card_kernels


def simulate_cards(monkeypatch: pytest.MonkeyPatch, count: int, usable_bytes: int) -> int:
    """`count` cards, each with `usable_bytes` besides what is kept free; returns what each has free."""
    free = int((CARD_BUFFER_BYTES + usable_bytes) / (1 - CARD_RESERVE))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(card_devices.PoolCard, "device", torch.device("cpu"))
    monkeypatch.setattr(card_devices, "block_kernels", lambda: make_card_kernels("reference"))
    return free
