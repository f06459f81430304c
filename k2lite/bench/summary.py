"""Measurements as the one object that `bench --json` prints."""

from dataclasses import asdict
from typing import Any

from k2lite.bench.measure import Measurements
from k2lite.bench.options import BenchOptions
from k2lite.bench.spread import Spread, ratios

_OURS = "k2lite"


def summarize(options: BenchOptions, found: Measurements) -> dict[str, Any]:
    """Medians, each beside its spread under the same name with `_spread`; then all that is needed to judge them."""
    facts = found.facts
    result: dict[str, Any] = {"model": facts["model"], "file": options.path.name}
    result |= {name: facts[name] for name in ("quantization", "weight_bytes", "kernels", "threads")}
    result |= {"rounds": options.rounds, "decode_tokens": options.decode_tokens, "depth": options.depth}
    result |= _decode(found) | _prefill(options, found)
    if options.against is not None:
        result |= _peer(options, found)
    if options.busy_neighbour:
        result["busy_neighbour"] = _busy(options, found)
    if options.memory_limit_bytes is not None:
        result["memory_limit_bytes"] = options.memory_limit_bytes
        result["memory_peak_bytes"] = found.memory_peak_bytes
    if found.profile is not None:
        result["profile"] = found.profile
    result |= {"peak_rss_bytes": facts[f"{_OURS} peak_rss_bytes"], "machine": found.machine}
    result["versions"] = facts["versions"]
    result["measurements"] = {" ".join(key): values for key, values in found.values.items()}
    return result


def _decode(found: Measurements) -> dict[str, Any]:
    decoded, roofs = found.values[_OURS, "decode"], found.values["ram", "roof"]
    speed, roof = Spread.of(decoded), Spread.of(roofs)
    nbytes = found.facts["weight_bytes_per_token"]
    return {
        "decode_tokens_per_s": speed.median,
        "decode_spread": asdict(speed),
        "weight_bytes_per_token": nbytes,
        # What the memory gives at its best: in the rounds with less, somebody else took it.
        "roof_bytes_per_s": roof.most,
        "roof_spread": asdict(roof),
        "roof_share": nbytes * speed.median / roof.most,
        # Each round against the roof of its own, which the machine's other guests press on too.
        "roof_share_by_round": asdict(Spread.of([nbytes * share for share in ratios(decoded, roofs)])),
        "tiers": _tiers(found),
    }


def _tiers(found: Measurements) -> dict[str, Any]:
    """The routed experts' part of the work, by where they lay; decoding only."""
    tiers = {name.removesuffix("_experts") for name in found.counters if name.endswith("_experts")}
    return {
        tier: {
            "hits": found.counters[f"{tier}_experts"],
            "bytes": found.counters[f"{tier}_bytes"],
            "bytes_per_s": found.counters[f"{tier}_bytes"] / found.decode_s,
        }
        for tier in sorted(tiers)
    }


def _prefill(options: BenchOptions, found: Measurements) -> dict[str, Any]:
    """The first length under the plain name, all of them in a list."""
    rows = []
    for tokens in options.prefill_tokens:
        speed = Spread.of(found.values[_OURS, f"prefill {tokens}"])
        row: dict[str, Any] = {"tokens": tokens, "tokens_per_s": speed.median, "spread": asdict(speed)}
        if options.against is not None:
            row |= _against(options.against, found, f"prefill {tokens}", "")
        rows.append(row)
    return {"prefill_tokens_per_s": rows[0]["tokens_per_s"] if rows else None, "prefill": rows}


def _peer(options: BenchOptions, found: Measurements) -> dict[str, Any]:
    name = options.against
    assert name is not None
    result = {"peer": found.facts["peer"], "peer_peak_rss_bytes": found.facts[f"{name} peak_rss_bytes"]}
    result |= _against(name, found, "decode", "decode_")
    if options.prefill_tokens:
        result |= _against(name, found, f"prefill {options.prefill_tokens[0]}", "prefill_")
    return result


def _against(name: str, found: Measurements, what: str, prefix: str) -> dict[str, Any]:
    theirs = found.values[name, what]
    speed, ratio = Spread.of(theirs), Spread.of(ratios(found.values[_OURS, what], theirs))
    return {
        f"peer_{prefix}tokens_per_s": speed.median,
        f"peer_{prefix}spread": asdict(speed),
        f"{prefix}ratio": ratio.median,
        f"{prefix}ratio_spread": asdict(ratio),
    }


def _busy(options: BenchOptions, found: Measurements) -> dict[str, Any]:
    """Speeds beside a busy process, and what share of the quiet speed they are."""
    result: dict[str, Any] = {"core": found.facts["busy_core"]}
    for side, prefix in ((_OURS, ""), (options.against, "peer_")):
        if side is None:
            continue
        speed = Spread.of(found.values[side, "busy decode"])
        share = Spread.of(ratios(found.values[side, "busy decode"], found.values[side, "decode"]))
        result |= {f"{prefix}decode_tokens_per_s": speed.median, f"{prefix}decode_spread": asdict(speed)}
        result |= {f"{prefix}share_of_quiet": share.median, f"{prefix}share_of_quiet_spread": asdict(share)}
    return result
