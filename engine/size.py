"""Amounts of memory and disk in words, and out of them."""

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def in_words(size: float) -> str:
    """Bytes with three digits, such as 18.2 MiB."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {UNITS[unit]}"
