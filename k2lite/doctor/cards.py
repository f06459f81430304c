"""torch, and the graphics cards that it sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k2lite.doctor.driver import driver_version
from k2lite.doctor.finding import Finding
from k2lite.sizes import format_bytes
from offload.probe_cards import CardFacts, probe_cards

_PCI = Path("/sys/bus/pci/devices")
_OLDEST_TORCH = (2, 9)
_SLOW_LINK = 10e9
_FULL_LANES = 16


def card_findings(measure: bool) -> Iterator[Finding]:
    """torch first: without it nothing runs."""
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "fails", "missing", f"install it (pip install torch): {error}")
        return
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _OLDEST_TORCH:
        yield Finding("torch", "fails", torch.__version__, "install torch 2.9 or newer")
        return
    yield Finding("torch", "ok", torch.__version__)
    yield from _cuda(torch, measure)


def _cuda(torch: Any, measure: bool) -> Iterator[Finding]:
    driver = driver_version()
    if not torch.cuda.is_available():
        if driver is None:
            yield Finding("cards", "ok", "none: the processor multiplies everything")
        elif torch.version.cuda is None:
            advice = f"there is a driver ({driver}), but this torch is built without CUDA: install one that is with it"
            yield Finding("cards", "hint", "none that torch can use", advice)
        else:
            advice = f"driver {driver} and torch for CUDA {torch.version.cuda} do not come together: run nvidia-smi"
            yield Finding("cards", "hint", "none that torch can use", advice)
        return
    yield Finding("CUDA", "ok", f"{torch.version.cuda}, driver {driver or 'unknown'}")
    if not measure:
        count = torch.cuda.device_count()
        yield Finding("cards", "ok", ", ".join(torch.cuda.get_device_name(number) for number in range(count)))
        return
    facts = probe_cards()
    for card in facts:
        yield _card(card, link_of(_address(torch, card.number)))
    if len(facts) > 1:
        yield _peers(facts)


def _address(torch: Any, number: int) -> str:
    """Where a card sits on the PCI bus, as the system names it."""
    card = torch.cuda.get_device_properties(number)
    domain, bus, device = (getattr(card, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    return "" if bus is None or device is None else f"{domain or 0:04x}:{bus:02x}:{device:02x}.0"


def link_of(address: str, devices: Path = _PCI) -> tuple[int, int, str] | None:
    """Lanes in use, lanes that there could be, and the speed of one, by PCI address; None where it is unknown."""
    try:
        used, most, speed = (
            (devices / address / name).read_text().strip()
            for name in ("current_link_width", "max_link_width", "current_link_speed")
        )
        return int(used), int(most), speed
    except (OSError, ValueError):
        return None


def _card(card: CardFacts, link: tuple[int, int, str] | None) -> Finding:
    lanes = "" if link is None else f", {link[0]} of {link[1]} lanes of {link[2]}"
    value = (
        f"{card.name}, {format_bytes(card.free_bytes)} of {format_bytes(card.total_bytes)} free, reads "
        f"{card.read_bytes_per_s / 1e9:,.0f} GB/s, copies to it {card.link_bytes_per_s / 1e9:.1f} GB/s{lanes}"
    )
    name = f"card {card.number}"
    if link is not None and link[0] < min(_FULL_LANES, link[1]):
        return Finding(name, "hint", value, "the card could use more lanes: try another slot, or the board's settings")
    if card.link_bytes_per_s < _SLOW_LINK:
        return Finding(name, "hint", value, "a slow link makes prompts slow: use a slot with 16 lanes")
    if card.free_bytes < card.total_bytes * 0.8:
        return Finding(name, "hint", value, "other programs hold much of its memory: see nvidia-smi")
    return Finding(name, "ok", value)


def _peers(facts: list[CardFacts]) -> Finding:
    linked = sum(len(card.peers) for card in facts)
    possible = len(facts) * (len(facts) - 1)
    return Finding("between cards", "ok", "directly" if linked == possible else "through the host's memory")
