"""How fast a whole model would decode on this machine, which may hold a part of it only: from what a slice has shown.

An estimate with an error bar. Where the whole model would be paged, the slice was, too, and what a layer took then says
how fast a drive with nothing else in the way would be: what is lost between reads is in that figure. Kernels are as
fast as they were with everything in RAM. Experts are found as often as the two hit curves of the planner say, or as
rarely as with even routing, which is how the slice's are.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from k2lite.bench.options import BenchOptions
from k2lite.bench.paged import PagedRound, measure_paged
from k2lite.bench.shape_slice import EXPERT_LAYERS, SlicePlan, place_whole, whole_model
from offload.hit_curve import even, nominal, pessimistic
from offload.predict import tier_shares
from offload.roofline import Rates, Shares, layer_times

Summary = dict[str, Any]

_CURVES = {"nominal": nominal, "pessimistic": pessimistic, "even": even}
_LOWEST_RATE, _HALVINGS = 1e6, 60


def speed_here(shape_name: str, summary: Summary, plan: SlicePlan, options: BenchOptions) -> Summary:
    """`summary` has an estimate of the model with everything in RAM. Measures the slice paged where the whole would be.

    Raises K2Error.
    """
    rounds = measure_paged(options, plan.paged_share) if plan.paged_share < 1 else []
    memory = options.memory_limit_bytes or summary["machine"]["memory_bytes"]
    return from_measured(shape_name, summary, memory, rounds) | {"slice_ram_share": plan.paged_share}


def from_measured(shape_name: str, summary: Summary, memory_bytes: int, rounds: Sequence[PagedRound]) -> Summary:
    """Tokens/s by hit curve, and from the least to the most: the curves, and the spread of what was measured.

    `rounds` may be empty where RAM holds the whole model, or too little to run it.
    """
    model = whole_model(shape_name)
    placement = place_whole(model, memory_bytes)
    result: Summary = {
        "memory_bytes": memory_bytes,
        "ram_share": placement.ram.expert_count / model.expert_count,
        "missing_bytes": placement.missing_bytes,
    }
    if not placement.fits:
        return result
    layers = _Layers(summary, model.experts_per_token, model.mean_expert_bytes)
    drives = [layers.drive_rate(found) for found in rounds] or [float("inf")]
    paged = _paged_facts(rounds, drives, layers) if rounds else {}

    def speed(curve: str, drive: float) -> float:
        layer_s = layers.seconds(tier_shares(model, placement, _CURVES[curve]), drive)
        return 1 / (summary["estimate"]["token_ms"] / 1000 + model.expert_layers * (layer_s - layers.in_ram_s))

    middle = statistics.median(drives)
    speeds = {curve: speed(curve, middle) for curve in _CURVES}
    spread, median = summary["decode_spread"], summary["decode_tokens_per_s"]
    least = min(speed(curve, min(drives)) for curve in _CURVES) * spread["least"] / median
    most = max(speed(curve, max(drives)) for curve in _CURVES) * spread["most"] / median
    return result | paged | {"decode_tokens_per_s": speeds["nominal"], "by_curve": speeds, "least": least, "most": most}


class _Layers:
    """A layer with experts: how long it takes by where they are found."""

    def __init__(self, summary: Summary, picks: int, expert_bytes: float) -> None:
        self.picks, self._expert_bytes = picks, expert_bytes
        self._ram = summary["weight_bytes_per_token"] * summary["decode_tokens_per_s"]
        self.in_ram_s = summary["estimate"]["expert_layer_ms"] / 1000
        # What a token of the slice takes besides its layers with experts.
        self._besides_s = 1 / summary["decode_tokens_per_s"] - EXPERT_LAYERS * self.in_ram_s

    def seconds(self, shares: Shares, drive: float) -> float:
        """With a drive so fast that the model's times are those that were measured."""
        hits = Shares(0.0, 1.0, 0.0)
        all_in_ram = layer_times(hits, self.picks, self._expert_bytes, Rates(self._ram, self._ram, drive)).mean_s
        found = layer_times(shares, self.picks, self._expert_bytes, Rates(self._ram, self._ram, drive)).mean_s
        return self.in_ram_s + found - all_in_ram

    def measured_s(self, found: PagedRound) -> float:
        """A layer of the paged slice."""
        return (found.token_s - self._besides_s) / EXPERT_LAYERS

    def drive_rate(self, found: PagedRound) -> float:
        """The drive that explains a round; at most twice as fast as the probed one, which another minute may show."""
        missed = min(1.0, found.read_experts / self.picks)
        shares = Shares(0.0, 1 - missed, missed)
        low, high = _LOWEST_RATE, 2 * found.drive_bytes_per_s
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.seconds(shares, middle) > self.measured_s(found):
                low = middle
            else:
                high = middle
        return high


def _paged_facts(rounds: Sequence[PagedRound], drives: Sequence[float], layers: _Layers) -> Summary:
    probed = statistics.median(found.drive_bytes_per_s for found in rounds)
    return {
        "drive_bytes_per_s": probed,
        "reached_drive_bytes_per_s": statistics.median(drives),
        "slice_tokens_per_s": statistics.median(1 / found.token_s for found in rounds),
        "slice_layer_ms": statistics.median(1000 * layers.measured_s(found) for found in rounds),
        "slice_read_experts": statistics.median(found.read_experts for found in rounds),
        "picks": layers.picks,
    }


def here_lines(here: Summary) -> list[str]:
    """For people."""
    if here["missing_bytes"]:
        return [f"here          it cannot run: {here['missing_bytes']:,} bytes of RAM are missing (k2lite plan)"]
    curves = ", ".join(f"{name} {speed:.3g}" for name, speed in here["by_curve"].items())
    lines = [
        f"here          {here['decode_tokens_per_s']:.3g} tokens/s ({here['least']:.3g} to {here['most']:.3g}) with "
        f"{100 * here['ram_share']:.1f} % of the experts in RAM",
        f"              by how often experts are found: {curves}",
    ]
    if "slice_layer_ms" in here:
        lines.append(
            f"              measured with {100 * here['slice_ram_share']:.1f} % of the slice's in RAM: "
            f"{here['slice_tokens_per_s']:.3g} tokens/s, {here['slice_layer_ms']:.1f} ms a layer of which "
            f"{here['slice_read_experts']:.1f} of {here['picks']} experts were read,"
        )
        lines.append(
            f"              as a drive of {here['reached_drive_bytes_per_s'] / 1e9:.2f} GB/s would; it gives "
            f"{here['drive_bytes_per_s'] / 1e9:.2f} GB/s to who does nothing else"
        )
    return lines
