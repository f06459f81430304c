"""A summary as lines for people."""

from typing import Any

from k2lite.bench.shape_here import here_lines
from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes

Summary = dict[str, Any]


def report_lines(summary: Summary) -> list[str]:
    """What was measured, the most important first; every median with its smallest and largest value."""
    lines = [
        f"{one_line(summary['model'])}: {format_bytes(summary['weight_bytes'])}, mostly {summary['quantization']}",
        f"{summary['kernels']} kernels, {summary['threads']} threads; median of {summary['rounds']} rounds "
        "(least to most)",
        "",
        _decode_line(summary),
        f"RAM roof      {_giga(summary['roof_bytes_per_s'])} GB/s read by all cores, best of the run "
        f"(from {_giga(summary['roof_spread']['least'])})",
        f"per token     {summary['weight_bytes_per_token'] / 1e6:,.1f} MB of weights: "
        f"{_giga(summary['weight_bytes_per_token'] * summary['decode_tokens_per_s'])} GB/s, "
        f"{100 * summary['roof_share']:.1f} % of the roof "
        f"({100 * summary['roof_share_by_round']['median']:.1f} % round by round)",
    ]
    lines += [f"prefill {row['tokens']:<5} {_speed(row['spread'])}" for row in summary["prefill"]]
    lines += _tier_lines(summary)
    if "peer" in summary:
        lines += ["", *_peer_lines(summary)]
    if "busy_neighbour" in summary:
        lines += ["", *_busy_lines(summary)]
    lines.append(f"memory        {format_bytes(summary['peak_rss_bytes'])} resident at most, mapped file included")
    if "memory_limit_bytes" in summary:
        peak = summary["memory_peak_bytes"]
        used = "" if peak is None else f", {format_bytes(peak)} used at most by both sides"
        lines.append(f"limit         {format_bytes(summary['memory_limit_bytes'])}{used}")
    if "profile" in summary:
        lines += ["", *profile_lines(summary["profile"])]
    if "estimate" in summary:
        lines += ["", *_estimate_lines(summary["estimate"])]
    if "here" in summary:
        lines += here_lines(summary["here"])
    return [*lines, "", *_machine_lines(summary)]


def profile_lines(profile: Summary) -> list[str]:
    """Where a token's time goes: parts of the model, then kernel calls."""
    total = profile["total_ms"]
    lines = ["where a token's time goes       ms   share   in kernels"]
    for name, stage in profile["stages"].items():
        lines.append(f"  {name:22} {stage['ms']:9.3f} {100 * stage['ms'] / total:6.1f} %   {stage['kernel_ms']:9.3f}")
    outside = profile["outside_kernels_ms"]
    lines.append(f"  {'all':22} {total:9.3f}  100.0 %   {total - outside:9.3f}")
    lines.append(f"outside of kernel calls: {outside:.3f} ms, {100 * outside / total:.1f} %")
    lines.append("kernel calls                    ms   calls per token")
    for name, kernel in profile["kernels"].items():
        lines.append(f"  {name:22} {kernel['ms']:9.3f}   {kernel['calls']:9.1f}")
    return lines


def _decode_line(summary: Summary) -> str:
    behind = f" behind {summary['depth']} others" if summary["depth"] else ""
    ms = 1000 / summary["decode_tokens_per_s"]
    return f"decode        {_speed(summary['decode_spread'])}, {ms:.2f} ms a token{behind}"


def _tier_lines(summary: Summary) -> list[str]:
    return [
        f"experts, {name:4} {tier['hits']:,} used, {format_bytes(tier['bytes'])}, {_giga(tier['bytes_per_s'])} GB/s"
        for name, tier in summary["tiers"].items()
    ]


def _peer_lines(summary: Summary) -> list[str]:
    peer = summary["peer"]
    repacked = "weights repacked" if peer["repacked"] else "weights as in the file"
    lines = [
        f"{peer['name']}, same file and threads, {repacked}",
        f"decode        {_speed(summary['peer_decode_spread'])} ({peer['flags']['decode']})",
        f"              k2lite is {_times(summary['decode_ratio_spread'])} as fast",
    ]
    for row in summary["prefill"]:
        flags = peer["flags"]["prefill"][str(row["tokens"])]
        lines.append(f"prefill {row['tokens']:<5} {_speed(row['peer_spread'])} ({flags})")
        lines.append(f"              k2lite is {_times(row['ratio_spread'])} as fast")
    lines.append(f"memory        {format_bytes(summary['peer_peak_rss_bytes'])} resident at most")
    return lines


def _busy_lines(summary: Summary) -> list[str]:
    busy = summary["busy_neighbour"]
    lines = [f"with another process busy on core {busy['core']}"]
    for name, prefix in (("decode", ""), (summary.get("peer", {}).get("name", ""), "peer_")):
        if f"{prefix}decode_spread" in busy:
            share = busy[f"{prefix}share_of_quiet_spread"]
            quiet = ", ".join(f"{100 * share[key]:.0f} %" for key in ("median", "least", "most"))
            lines.append(
                f"{name:13} {_speed(busy[f'{prefix}decode_spread'])}; of the quiet speed (median, least, most) {quiet}"
            )
    return lines


def _estimate_lines(estimate: Summary) -> list[str]:
    return [
        f"estimate for {estimate['shape']} as a whole ({estimate['layers']} layers, {estimate['dense_layers']} dense):",
        f"decode        {estimate['decode_tokens_per_s']:.2f} tokens/s, {estimate['token_ms']:.1f} ms a token",
        f"              from {estimate['dense_layer_ms']:.2f} ms a dense layer, {estimate['expert_layer_ms']:.2f} ms a "
        f"layer with experts, {estimate['outer_ms']:.2f} ms besides",
        f"It is no measurement, and holds where all {format_bytes(estimate['weight_bytes'])} of weights are in RAM: "
        f"this machine has {format_bytes(estimate['memory_bytes'])}.",
        "Prefill is not estimated: a prompt spreads over more experts in the whole model.",
    ]


def _machine_lines(summary: Summary) -> list[str]:
    machine = summary["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        f"{machine['cpu']}, {machine['physical_cores']} cores, {format_bytes(machine['memory_bytes'])}, "
        f"{machine['system']}; load before the run {machine['load_average']:.2f}",
        versions,
    ]


def _speed(spread: Summary) -> str:
    return f"{_three(spread['median'])} tokens/s ({_three(spread['least'])} to {_three(spread['most'])})"


def _times(spread: Summary) -> str:
    return f"{spread['median']:.2f} times ({spread['least']:.2f} to {spread['most']:.2f})"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _giga(value: float) -> str:
    return f"{value / 1e9:.1f}"
