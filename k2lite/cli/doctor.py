"""`k2lite doctor`: what this machine has and lacks, and what to do about it."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from k2lite.cli.options import add_switch
from k2lite.environment import cache_folder
from k2lite.safe_text import one_line

if TYPE_CHECKING:
    from k2lite.doctor.finding import Finding

DESCRIPTION = """Look at processor, memory, drive, cards and packages, and say of each whether it is as it should be.
Memory, drive and cards are measured for a second each. Exit status 1 only when k2lite cannot run here."""
EXAMPLES = """examples:
  k2lite doctor
  k2lite doctor --no-measure --json | jq '.findings[] | select(.state != "ok")'"""

_MARKS = {"ok": "ok   ", "hint": "hint ", "fails": "FAILS"}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_switch(parser, "--no-measure", help="leave out what takes a second or more")
    add_switch(parser, "--json", help="one JSON object")


def execute(options: argparse.Namespace) -> int:
    findings = []
    for finding in _findings(measure=not options.no_measure):
        findings.append(finding)
        if not options.json:
            print("\n".join(_lines(finding)), flush=True)
    fails = [finding.name for finding in findings if finding.state == "fails"]
    if options.json:
        print(json.dumps({"ok": not fails, "findings": [asdict(finding) for finding in findings]}))
    elif fails:
        print(f"\nk2lite cannot run here before this is mended: {', '.join(fails)}")
    return 1 if fails else 0


def _findings(measure: bool) -> "Iterator[Finding]":
    from k2lite.doctor.cards import card_findings
    from k2lite.doctor.drive import drive_findings
    from k2lite.doctor.host import host_findings
    from k2lite.doctor.packages import package_findings

    yield from host_findings(measure)
    yield from drive_findings(cache_folder(), measure)
    yield from card_findings(measure)
    yield from package_findings()


def _lines(finding: "Finding") -> list[str]:
    lines = [f"{_MARKS[finding.state]}  {finding.name:16}  {one_line(finding.value)}"]
    if finding.advice:
        lines.append(f"{'':25}{one_line(finding.advice)}")
    return lines
