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
