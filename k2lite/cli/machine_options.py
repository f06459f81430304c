"""Options that describe a machine, for commands that predict. Imports no torch."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.options import UsageError, add_option, positive
from k2lite.sizes import parse_rate, parse_size
from quant.errors import RequestError

if TYPE_CHECKING:
    from offload.machine import Card, Machine

NONE = "none"
_MOST_CARDS = 64
_COUNTED = re.compile(r"(?:([0-9]+)\s*x\s*)?(\S.*)", re.IGNORECASE)
_SIZE = re.compile(r"[0-9.]+\s*[kmgt](i?b)?", re.IGNORECASE)


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """What the machine has: --gpus, --ram, --ram-bw, --drive, --link, --flops."""
    add_option(parser, "--gpus", metavar="LIST", help="as in 4x24G, 10xRTX4090, 2x24G,1x16G, or none")
    add_option(parser, "--ram", type=positive, metavar="SIZE", help="memory, as in 512G")
    add_option(parser, "--ram-bw", type=parse_rate, metavar="RATE", help="how fast it is read, as in 300G/s")
    add_option(parser, "--drive", metavar="RATE", help="how fast the drive is read, as in 7G/s, or none")
    add_option(parser, "--link", type=parse_rate, metavar="RATE", help="copies to each card, as in 25G/s")
    add_option(parser, "--flops", type=parse_rate, metavar="RATE", help="the processor's matrix products, as in 2T/s")


def machine_of(options: argparse.Namespace, drive_place: Path) -> "Machine":
    """The machine that the options describe, with what they leave open measured here. Raises K2Error."""
    from offload.probe import Description, described_machine

    cards = None if options.gpus is None else parse_cards(options.gpus)
    if options.link is not None and cards == ():
        raise UsageError("--link cannot take effect: --gpus says that there is no card")
    drive, has_drive = _drive(options.drive)
    said = Description(cards, options.ram, options.ram_bw, drive, has_drive, options.link, options.flops)
    return described_machine(said, drive_place)


def parse_cards(text: str) -> "tuple[Card, ...]":
    """The cards of "4x24G", "10xRTX4090", "2x24G,1x16G", "H100" or "none". Raises UsageError."""
    from offload.cards import card_named, unnamed_card

    if text.strip().lower() == NONE:
        return ()
    cards: list[Card] = []
    for part in text.split(","):
        match = _COUNTED.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--gpus {text!r}: write cards as in 4x24G or 2xRTX4090, divided by commas")
        count, name = int(match.group(1) or 1), match.group(2)
        if not 1 <= count <= _MOST_CARDS - len(cards):
            raise UsageError(f"--gpus {text!r}: there can be 1 to {_MOST_CARDS} cards")
        try:
            card = unnamed_card(parse_size(name)) if _SIZE.fullmatch(name) else card_named(name)
        except (RequestError, ValueError) as error:
            raise UsageError(f"--gpus: {error}") from error
        cards += [card] * count
    return tuple(cards)


def _drive(text: str | None) -> tuple[float | None, bool]:
    if text is None:
        return None, True
    if text.strip().lower() == NONE:
        return None, False
    try:
        return parse_rate(text), True
    except ValueError as error:
        raise UsageError(f"--drive: {error}") from error
