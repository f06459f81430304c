"""What each tier did during an answer, as lines for stderr."""

from collections.abc import Iterator

from k2lite.events import ExpertReport, TierReport
from k2lite.sizes import format_bytes


def tier_lines(report: ExpertReport) -> Iterator[str]:
    """Nothing where all experts are in RAM: then there is nothing to tell."""
    if len(report.tier_reports) > 1:
        total = sum(tier.hits for tier in report.tier_reports)
        for tier in report.tier_reports:
            yield _tier_line(tier, total)
        waited = f"waited {report.stall_s:.1f} s for the drive, {report.queue_depth:.1f} requests at a time"
        yield f"  {waited}; {report.evictions} evictions, {report.promotions} promotions"
        if report.lookahead_reads:
            right = report.lookahead_used / report.lookahead_reads
            yield f"  look-ahead: {report.lookahead_reads} reads, {100 * right:.0f} % of them used"
    for note in report.notes:
        yield f"  {note}"


def _tier_line(tier: TierReport, total_hits: int) -> str:
    share = 100 * tier.hits / total_hits if total_hits else 0.0
    speed = f", {format_bytes(tier.bytes / tier.busy_s)}/s" if tier.busy_s else ""
    if speed and tier.roof_bytes_per_s is not None:
        speed += f" (at most {format_bytes(tier.roof_bytes_per_s)}/s)"
    return (
        f"  {tier.name:8} {share:5.1f} % of {total_hits} experts, {format_bytes(tier.bytes)}{speed}; "
        f"{format_bytes(tier.used_bytes)} of {format_bytes(tier.capacity_bytes)} in use"
    )
