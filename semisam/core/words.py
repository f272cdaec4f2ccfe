"""Figures as a person writes them."""

from __future__ import annotations


def spoken_time(seconds: float) -> str:
    """Return a time in seconds, minutes, or hours and minutes.

    Example:
        >>> spoken_time(42), spoken_time(600), spoken_time(7500)
        ('42 s', '10 min', '2 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def spoken_size(count: float) -> str:
    """Return bytes in the largest unit of which there is at least one.

    Example:
        >>> spoken_size(950), spoken_size(3.2 * 2**20), spoken_size(90 * 2**30)
        ('950 B', '3.2 MiB', '90 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1023.5:
            shown = f"{count:.0f}" if unit == "B" or count >= 9.95 else f"{count:.1f}"
            return f"{shown} {unit}"
        count /= 1024
    return f"{count:.0f} TiB"
