"""Under which memory the simulator is compared with reality, and a drive that can be slowed down."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k2lite.card_placement import place_on_cards
from k2lite.config_gguf import config_from_gguf
from k2lite.model_bytes import model_bytes_of_file
from k2lite.own_memory import PromptMemory, budget_for, own_bytes, resident_bytes
from offload.drive import Drive
from offload.memory_options import CardSpec, MemoryOptions
from offload.probe_host import usable_cores
from quant.gguf.gguf_file import GgufFile

_EVERYTHING = 1 << 50
_CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Setting:
    """`ram` is about the share of the experts' bytes that RAM may hold, `cards` that of each card beside an equal share
    of all layers; `drive_share` slows the drive down to a part of its speed."""

    name: str
    ram: float
    cards: tuple[float, ...] = ()
    drive_share: float = 1.0


SETTINGS = (
    Setting("75 % in RAM", 0.75),
    Setting("50 % in RAM", 0.50),
    Setting("25 % in RAM", 0.25),
    Setting("50 %, drive at half speed", 0.50, drive_share=0.5),
    Setting("75 %, drive at a quarter", 0.75, drive_share=0.25),
    Setting("40 % and a card of 20 %", 0.40, (0.20,)),
    Setting("25 % and two cards of 15 %", 0.25, (0.15, 0.15)),
    Setting("all mapped, a card of 25 %", 2.0, (0.25,)),
)


class ThrottledDrive(Drive):
    """Reads that take at least as long as a slower drive would take for all of them together."""

    bytes_per_s = float("inf")

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        self._turn, self._free_at = threading.Lock(), 0.0

    def read(self, file: int, offset: int, target: memoryview, needed: int) -> None:
        """See Drive.read."""
        with self._turn:
            self._free_at = max(self._free_at, time.perf_counter()) + needed / self.bytes_per_s
            end = self._free_at
        super().read(file, offset, target, needed)
        time.sleep(max(0.0, end - time.perf_counter()))


def budgets(setting: Setting, file: Path) -> MemoryOptions:
    """Bytes for the shares of a setting. Cards hold layers first, so they get room for those too."""
    model = model_bytes_of_file(file)
    of_layers = model.resident_bytes + _CONTEXT_TOKENS * model.cache_bytes
    sizes = [int(share * model.experts_bytes + of_layers / len(setting.cards)) for share in setting.cards]
    cards = tuple(CardSpec("virtual", size, number) for number, size in enumerate(sizes))
    if setting.ram > 1:
        return MemoryOptions(ram_budget_bytes=_EVERYTHING, context_tokens=_CONTEXT_TOKENS, cards=cards)
    with GgufFile.open(file) as opened:
        config = config_from_gguf(opened.metadata)
        on_cards = place_on_cards(opened.tensors, config, cards, _CONTEXT_TOKENS).resident_bytes
    buffers = PromptMemory(config, usable_cores()).bytes_of(1, longest=1024)
    needed = int(setting.ram * model.experts_bytes) + model.resident_bytes + model.embedding_bytes - on_cards + buffers
    budget = budget_for(needed, own_bytes(config, resident_bytes()))
    return MemoryOptions(ram_budget_bytes=budget, context_tokens=_CONTEXT_TOKENS, cards=cards)
