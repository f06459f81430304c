"""Sizes as people write and read them: 24G, 512MiB, 32k. All steps are of 1024."""

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LIMIT = 2.0**63
_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes or tokens of "24G", "24GiB", "32k" or "4096". Raises ValueError that reads well."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write a number with or without k, M, G or T, such as 24G or 32k")
    number, unit = match.groups()
    size = float(number) * 1024 ** _POWERS[unit.lower()]
    if size >= _LIMIT:
        raise ValueError(f"{text[:40]} is more than any machine has")
    return round(size)


def format_bytes(count: float) -> str:
    """Three digits and a unit: 1536 -> "1.50 KiB"."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if count < 1000 or unit == units[-1]:
            break
        count /= 1024
    if unit == "B":
        return f"{count:.0f} B"
    digits = 2 if count < 10 else 1 if count < 100 else 0
    return f"{count:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """Minutes and seconds as "1:25", from an hour on "2:01:25"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


_RATE_POWERS = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12}
_RATE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)b?(?:/s)?", re.IGNORECASE)


def parse_rate(text: str) -> float:
    """Units per second of "300G/s", "7GB/s" or "2T". Steps are of 1000, as makers of memory and drives count.

    Raises ValueError that reads well.
    """
    match = _RATE_PATTERN.fullmatch(text.strip())
    if match is None or float(match.group(1)) <= 0:
        raise ValueError(f"{text!r} is not a speed: write a number above 0 with k, M, G or T, such as 7G/s")
    number, unit = match.groups()
    rate = float(number) * 10 ** _RATE_POWERS[unit.lower()]
    if rate >= _LIMIT:
        raise ValueError(f"{text[:40]} is faster than any machine")
    return rate
