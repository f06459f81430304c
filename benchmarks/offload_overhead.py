"""What the keeper of experts costs when everything is in RAM, and what its counting costs.

    k2lite synth deep.gguf --shape k2 --hidden 256 --expert-width 32 --dense-width 256 --vocab 2048 --type Q8_0
    python -m benchmarks.offload_overhead deep.gguf       K2's depth, next to no arithmetic: the worst case
    python -m benchmarks.offload_overhead slice.gguf      experts of K2's width

One model behind several doors, which take turns in every round, each with tokens of its own:

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
from k2lite.load_gguf import GgufTensors, guess_of  # noqa: E402
from k2lite.model import Model  # noqa: E402
from k2lite.router import Router  # noqa: E402
from k2lite.weights import WeightReader, build_model, mapped_layers  # noqa: E402
from offload.build import layout_of, paged_experts  # noqa: E402
from offload.experts import Experts, MappedExperts  # noqa: E402
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

    def _count(self, layer: int, experts: Any) -> None:
        """Not counted."""


class BareExperts(MappedExperts):
    """One token's experts to the kernels, as directly as can be."""

    def forward(
        self, layer: int, x: Tensor, ids: Tensor, weights: Tensor, shared: ExpertWeights | None = None
    ) -> Tensor:
        """See Experts.forward. For one token."""
        experts = self._found(layer, ids[0].tolist())
        scales = weights[0]
        if shared is not None:
            experts.append(shared)
            scales = torch.cat((scales, torch.ones(1)))
        return self._weighted(x, experts, scales)


def main() -> int:
    options = _options()
    torch.set_num_threads(usable_cores())
    kernels = make_kernels("native", usable_cores())
    file = GgufFile.open(options.path)
    for _ in file.page_in(file.tensors):
        pass
    models = {name: _model(name, file, kernels) for name in DOORS}
    rates: dict[str, list[float]] = {name: [] for name in DOORS}
    for model in models.values():
        _rate(model, options.tokens, reports=False)
    for number in range(options.rounds):
        for name in random.sample(DOORS, len(DOORS)):
            rates[name].append(_rate(models[name], options.tokens, reports=name in ("mapped", "paged")))
        print(number, {name: round(found[-1], 2) for name, found in rates.items()}, file=sys.stderr)
    result: dict[str, Any] = {f"{name}_tokens_per_s": _spread(found) for name, found in rates.items()}
    result |= {f"{one} / {other}": _spread(ratios(rates[one], rates[other])) for one, other in _PAIRS}
    print(json.dumps({"file_bytes": options.path.stat().st_size, "rounds": options.rounds, **result}, indent=2))
    for model in models.values():
        model.close()
    kernels.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokens", type=int, default=48, help="decoded by each door in a round")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


def _model(door: str, file: GgufFile, kernels: Kernels) -> Model:
    """The model of a file, behind one of the doors."""
    config = config_from_gguf(file.metadata)

    def make(reader: WeightReader, routers: Mapping[int, Router], kernels: Kernels) -> Experts:
        if not door.startswith("paged"):
            kind = {"bare": BareExperts, "mapped": MappedExperts, "mapped, silent": SilentMapped}[door]
            experts = kind(mapped_layers(reader, routers), kernels)
            if door != "mapped":
                experts._tally = SilentTally()
            return experts
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


def _rate(model: Model, tokens: int, reports: bool) -> float:
    """Tokens a second, each a new one, with reports as an answer has them."""
    draw = random.Random(secrets.randbits(32))
    cache = model.new_cache(tokens)
    clock = ReportClock(model.experts_state) if reports else None
    ids = [torch.tensor([draw.randrange(model.config.vocab_size)]) for _ in range(tokens)]
    started = time.perf_counter()
    for token in ids:
        model.forward(token, cache)
        if clock is not None:
            clock.report()
    return tokens / (time.perf_counter() - started)


def _spread(values: list[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"median": found.median, "least": found.least, "most": found.most}


if __name__ == "__main__":
    raise SystemExit(main())
