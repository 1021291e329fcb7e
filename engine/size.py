"""Amounts of memory and disk in words, and out of them."""

import re

from stt2v.engine.errors import UsageError

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def in_words(size: float) -> str:
    """Bytes with three digits, such as 18.2 MiB."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:  # which would be written as 1e+03
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {UNITS[unit]}"


def from_words(text: str, flag: str) -> int:
    """Bytes from an amount such as 24GiB, 22.5G or 800M, binary in any case. Raises UsageError that names `flag`."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{flag} is {text!r}, expected an amount such as 24GiB")
    power = [unit[0] for unit in UNITS].index(found[2].upper() or "B")
    return int(float(found[1]) * 1024**power)
