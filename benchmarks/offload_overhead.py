"""What the keeper of experts costs when everything is in RAM, and what its counting costs.

    k2lite synth deep.gguf --shape k2 --hidden 256 --expert-width 32 --dense-width 256 --vocab 2048 --type Q8_0
    python -m benchmarks.offload_overhead deep.gguf       K2's depth, next to no arithmetic: the worst case
    python -m benchmarks.offload_overhead slice.gguf      experts of K2's width

One model behind several doors, which take turns with every token, each with tokens of its own:

    bare             experts in the mapped file, and nothing else: no counters, no places, no reports
    mapped           what k2lite uses when the budget holds the file, with a report every half second
    mapped, silent   the same without counting and without reports
    paged            what it uses when the budget does not, with slots for all experts
    paged, silent    the same without counting and without reports; what decides who stays is still counted

Results are JSON on stdout: tokens a second, and ratios of the same round.
"""

import argparse
import json
import random
import secrets
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k2lite.environment import prepare_threads

prepare_threads()  # before torch is loaded: its threads shall not spin beside ours

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from k2lite.bench.spread import Spread, ratios  # noqa: E402
from k2lite.config_gguf import config_from_gguf  # noqa: E402
from k2lite.expert_report import ReportClock  # noqa: E402
from k2lite.expert_slabs import expert_slabs  # noqa: E402
from k2lite.layer import Choice  # noqa: E402
from k2lite.load_gguf import GgufTensors, guess_of  # noqa: E402
from k2lite.model import Model  # noqa: E402
from k2lite.weights import WeightReader, build_model, mapped_layers  # noqa: E402
from offload.build import layout_of, paged_experts  # noqa: E402
from offload.experts import Experts  # noqa: E402
from offload.mapped_experts import MappedExperts  # noqa: E402
from offload.probe_host import usable_cores  # noqa: E402
from offload.tally import Tally, TierTally  # noqa: E402
from offload.tiered import TieredExperts  # noqa: E402
from quant.gguf.gguf_file import GgufFile  # noqa: E402
from quant.kernels import ExpertWeights, Kernels, make_kernels  # noqa: E402

DOORS = ("bare", "mapped", "mapped, silent", "paged", "paged, silent")
_PAIRS = (("mapped", "bare"), ("paged", "bare"), ("mapped", "mapped, silent"), ("paged", "paged, silent"))


class SilentTier(TierTally):
    """Counts nothing."""

    def add(self, experts: int, nbytes: int, seconds: float = 0.0) -> None:
        """Not counted."""


class SilentTally(Tally):
    """Counts nothing."""

    def __init__(self) -> None:
        super().__init__(ram=SilentTier(), drive=SilentTier())

    def cpu_worked(self, nbytes: int, shared_bytes: int, seconds: float) -> None:
        """Not counted."""


class SilentMapped(MappedExperts):
    """Neither counts nor remembers how much an expert is used."""

    def note(self, layer: int, ids: Any, shared: Any, seconds: float, in_ram: int | None = None) -> None:
        """Not counted."""


class BareExperts(SilentMapped):
    """One token's experts to the kernels, as directly as can be."""

    def forward(
        self,
        layer: int,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        shared: ExpertWeights | None = None,
        beside: bool = False,
    ) -> Tensor:
        """See Experts.forward. For one token."""
        return self._sum(layer, x, ids[0], weights[0], shared)


def main() -> int:
    options = _options()
    torch.set_num_threads(usable_cores())
    kernels = make_kernels("native", usable_cores())
    file = GgufFile.open(options.path)
    for _ in file.page_in(file.tensors):
        pass
    doors = {name: Door(_model(name, file, kernels), name in ("mapped", "paged")) for name in options.doors}
    rates: dict[str, list[float]] = {name: [] for name in doors}
    for number in range(-1, options.rounds):
        for name, rate in _round(doors, options.tokens).items():
            if number >= 0:  # the one before warms up
                rates[name].append(rate)
        print(number, {name: round(found[-1], 2) for name, found in rates.items() if found}, file=sys.stderr)
    result: dict[str, Any] = {f"{name}_tokens_per_s": _spread(found) for name, found in rates.items()}
    pairs = [(one, other) for one, other in _PAIRS if one in rates and other in rates]
    result |= {f"{one} / {other}": _spread(ratios(rates[one], rates[other])) for one, other in pairs}
    result["reports, share of the time"] = {
        name: door.report_seconds / door.seconds for name, door in doors.items() if name in ("mapped", "paged")
    }
    print(json.dumps({"file_bytes": options.path.stat().st_size, "rounds": options.rounds, **result}, indent=2))
    for door in doors.values():
        door.model.close()
    kernels.close()
    return 0


class Door:
    """A model behind its door, with a clock that runs only while it is its turn."""

    def __init__(self, model: Model, reports: bool) -> None:
        self.model = model
        self.seconds = self.report_seconds = 0.0
        self._began: float | None = None
        self._reports = ReportClock(model.experts_state, self._now) if reports else None

    def begin(self, tokens: int) -> None:
        """A round of so many tokens begins."""
        self._cache = self.model.new_cache(tokens)
        self.token_seconds: list[float] = []
        draw = random.Random(secrets.randbits(32))
        self._ids = [torch.tensor([draw.randrange(self.model.config.vocab_size)]) for _ in range(tokens)]

    def token(self) -> None:
        """One new token, and a report when one is due."""
        began = self._began = time.perf_counter()
        self.model.forward(self._ids.pop(), self._cache)
        self.token_seconds.append(time.perf_counter() - began)
        if self._reports is not None:
            self._reports.report()
        now = self._now()
        self.report_seconds += now - self.seconds - self.token_seconds[-1]
        self.seconds, self._began = now, None

    def _now(self) -> float:
        return self.seconds + (0.0 if self._began is None else time.perf_counter() - self._began)


def _round(doors: dict[str, Door], tokens: int) -> dict[str, float]:
    """Tokens a second of each door, by the median of its tokens; they take turns with every token, since speeds change
    from second to second."""
    for door in doors.values():
        door.begin(tokens)
    for _ in range(tokens):
        for door in random.sample(list(doors.values()), len(doors)):
            door.token()
    return {name: 1 / statistics.median(door.token_seconds) for name, door in doors.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--doors", choices=DOORS, nargs="+", default=DOORS)
    parser.add_argument("--tokens", type=int, default=32, help="decoded by each door in a round")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


def _model(door: str, file: GgufFile, kernels: Kernels) -> Model:
    """The model of a file, behind one of the doors."""
    config = config_from_gguf(file.metadata)

    def make(reader: WeightReader, routers: Mapping[int, Choice], kernels: Kernels) -> Experts:
        if not door.startswith("paged"):
            kind = {"bare": BareExperts, "mapped": MappedExperts, "mapped, silent": SilentMapped}[door]
            return kind(mapped_layers(reader, routers), kernels)
        slabs = expert_slabs(file, reader, list(routers))
        used = config.experts_per_token
        guesses = {layer: guess_of(router) for layer, router in routers.items()}
        every = layout_of(slabs, used).total_bytes
        paged = paged_experts(slabs, used, kernels, guesses, slot_budget_bytes=every)
        _fill(paged, slabs.layers, config.hidden_size)
        if door != "paged":
            paged._tiers.tally = SilentTally()
        return paged

    return build_model(config, GgufTensors(file), kernels, make)


def _fill(paged: TieredExperts, layers: Mapping[int, Any], hidden: int) -> None:
    """Use every expert once, so that all are in their slots."""
    for layer, found in layers.items():
        for expert in range(found.experts):
            paged.forward(layer, torch.zeros(1, hidden), torch.tensor([[expert]]), torch.ones(1, 1))


def _spread(values: list[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"median": found.median, "least": found.least, "most": found.most}


if __name__ == "__main__":
    raise SystemExit(main())
