"""An ExpertReport without what is there to be drawn. Imports no torch."""

from dataclasses import asdict
from typing import Any

from k2lite.events import ExpertReport


def experts_record(report: ExpertReport) -> dict[str, Any]:
    """What a program wants to know of a report: all but what is there to be drawn."""
    record = asdict(report)
    for drawn in ("places", "heat", "used", "first_layer"):
        del record[drawn]
    places = "".join(report.places)
    record["experts_on_cards"] = sum(map(str.isdigit, places))
    record["experts_in_ram"] = places.count("r")
    record["experts_on_drive"] = places.count(".")
    return record
