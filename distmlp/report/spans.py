"""Lengths of time in words."""


def span(seconds: float) -> str:
    """``12 s``, ``90 s``, ``5 min``, ``3 h``, ``12 days``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
