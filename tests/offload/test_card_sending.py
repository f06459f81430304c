"""What is sent to a card is multiplied in calls of a bounded size, and nothing of it is left out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from offload import card_sending
from offload.card_link import CardLink
from offload.card_sending import GROUP, CardSending
from offload.multiply import CardWork, ExpertBytes, SentWork
from offload.slots import ExpertKey, Slot

TOKENS, WIDTH = 100, 4


class Scaling:
    """A card whose expert number n multiplies by n."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def class_of(self, layer: int) -> int:
        return 0

    def copy(self, link: CardLink, key: ExpertKey, source: ExpertBytes, target: Slot) -> None:
        """Nothing is needed."""

    def multiply(self, link: CardLink, x: Tensor, works: list[CardWork], total: Tensor) -> None:
        self.calls.append(sum(len(work.tokens) for work in works))
        for work in works:
            total.index_add_(0, work.tokens, x[work.tokens] * work.key[1] * work.scales[:, None])


@pytest.mark.parametrize("most", [7, 30, 1000])
def test_products_with_what_is_sent_are_bounded(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(card_sending, "places_together", lambda hidden: most)
    memory, generator = Scaling(), torch.Generator().manual_seed(1)
    sending = CardSending("card", memory, CardLink(torch.device("cpu"), 1), (3,))
    x, expected, works = torch.randn(TOKENS, WIDTH, generator=generator), torch.zeros(TOKENS, WIDTH), []
    for expert in range(1, 2 * GROUP):
        tokens = torch.randperm(TOKENS, generator=generator)[: 5 * expert].sort().values
        scales = torch.rand(len(tokens), generator=generator)
        works.append(SentWork((0, expert), lambda: np.zeros(1, np.uint8), tokens, scales))
        expected.index_add_(0, tokens, x[tokens] * expert * scales[:, None])
    found = torch.zeros(TOKENS, WIDTH)
    sending.begin(x, works)(found)
    sending.close()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert max(memory.calls) <= most
    assert sum(memory.calls) == sum(len(work.tokens) for work in works)
    # No more calls than that takes: one for each group where it has room for all.
    assert len(memory.calls) <= 2 + 2 * sum(memory.calls) / most
