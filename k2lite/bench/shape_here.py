"""How fast a whole model would decode on this machine, which may hold a part of it only: from what a slice has shown.

An estimate with an error bar: kernels as fast as measured on the slice, the drive as fast as measured now, and experts
found as often as the two hit curves of the planner say, or as rarely as with even routing.
"""

from pathlib import Path
from typing import Any

from k2lite.bench.shape_slice import SLICE_RECIPE, whole_config
from k2lite.engine_options import DEFAULT_CONTEXT_TOKENS
from k2lite.model_bytes import model_bytes_of_config
from offload.hit_curve import even, nominal, pessimistic
from offload.machine import Machine
from offload.placement import place_model
from offload.predict import tier_shares
from offload.probe_drive import probe_drive
from offload.roofline import Rates, Shares, layer_times
from quant.recipe.recipe import recipe_named

_CURVES = {"nominal": nominal, "pessimistic": pessimistic, "even": even}


def speed_here(shape_name: str, summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`summary` has an estimate of the model with everything in RAM; `folder` is on the drive. Raises K2Error."""
    return from_measured(shape_name, summary, probe_drive(folder).bytes_per_s)


def from_measured(shape_name: str, summary: dict[str, Any], drive_bytes_per_s: float) -> dict[str, Any]:
    """Tokens/s by hit curve, and from the least to the most: the curves, and the spread of what was measured."""
    model = model_bytes_of_config(whole_config(shape_name), recipe_named(SLICE_RECIPE), shape_name)
    reached = summary["weight_bytes_per_token"] * summary["decode_tokens_per_s"]
    memory = summary["machine"]["memory_bytes"]
    machine = Machine(memory, reached, drive_bytes_per_s, flops=1.0)
    placement = place_model(machine, model, min(DEFAULT_CONTEXT_TOKENS, model.context_tokens))
    result: dict[str, Any] = {
        "drive_bytes_per_s": drive_bytes_per_s,
        "ram_share": placement.ram.expert_count / model.expert_count,
        "missing_bytes": placement.missing_bytes,
    }
    if not placement.fits:
        return result
    rates, picks, size = Rates(reached, reached, drive_bytes_per_s), model.experts_per_token, model.mean_expert_bytes
    in_ram_s = layer_times(Shares(0.0, 1.0, 0.0), picks, size, rates).mean_s
    speeds = {}
    for name, curve in _CURVES.items():
        layer_s = layer_times(tier_shares(model, placement, curve), picks, size, rates).mean_s
        token_s = summary["estimate"]["token_ms"] / 1000 + model.expert_layers * (layer_s - in_ram_s)
        speeds[name] = 1 / token_s
    spread, median = summary["decode_spread"], summary["decode_tokens_per_s"]
    least = min(speeds.values()) * spread["least"] / median
    most = max(speeds.values()) * spread["most"] / median
    return result | {"decode_tokens_per_s": speeds["nominal"], "by_curve": speeds, "least": least, "most": most}


def here_lines(here: dict[str, Any]) -> list[str]:
    """For people."""
    drive = f"a drive of {here['drive_bytes_per_s'] / 1e9:.2f} GB/s"
    if here["missing_bytes"]:
        return [f"here          it cannot run: {here['missing_bytes']:,} bytes of RAM are missing (k2lite plan)"]
    curves = ", ".join(f"{name} {speed:.3g}" for name, speed in here["by_curve"].items())
    return [
        f"here          {here['decode_tokens_per_s']:.3g} tokens/s ({here['least']:.3g} to {here['most']:.3g}) with "
        f"{100 * here['ram_share']:.1f} % of the experts in RAM and {drive}",
        f"              by how often experts are found: {curves}",
    ]
