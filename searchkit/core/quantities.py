"""Parse and format quantities such as 100KB, 2ms, 50k and 30m."""

from __future__ import annotations

import math
import re

from searchkit.core.errors import BadInput

# By kind, since a unit may mean two things: m is a million of a count, and a minute of a duration.
_FACTORS: dict[str, dict[str, float]] = {
    "size": {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "kib": 1_024, "mib": 1_048_576},
    "latency": {"": 1.0, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "count": {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000},
    "duration": {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
}
_EXAMPLES = {"size": "100KB or 1.5MB", "latency": "2ms or 500us", "count": "50k or 5M", "duration": "90s, 30m or 2h"}
_NAMES = {"size": "a size in bytes", "latency": "a latency", "count": "a count", "duration": "a duration"}


def parse(kind: str, text: str, given: str) -> float:
    """Parse a quantity.

    Args:
        kind: "size", "latency", "count" or "duration".
        text: What the user wrote, e.g. "100KB".
        given: The option and its value as the user wrote them, e.g. --max-size '100KB'; error messages begin with it.

    Returns:
        The value in bytes, milliseconds, units or seconds.

    Raises:
        BadInput: If the text does not parse or the value is not above zero.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ]*)\s*", text)
    factor = None if found is None else _FACTORS[kind].get(found[2].lower())
    if found is None or factor is None:
        units = ", ".join(unit for unit in _FACTORS[kind] if unit)
        raise BadInput(f"{given} is not {_NAMES[kind]}; write a number and one of {units}, such as {_EXAMPLES[kind]}.")
    value = float(found[1]) * factor
    if not 0 < value < math.inf:
        raise BadInput(f"{given} leaves room for nothing; it must be above 0, such as {_EXAMPLES[kind]}.")
    return value


def show_seconds(seconds: float) -> str:
    """Format a duration in seconds as s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_count(value: float) -> str:
    """Three digits and a unit: 512, 13.4k, 1.2M."""
    for factor, unit in ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")):
        if abs(value) < 999.5 * factor:  # three digits of 999.5 are 1e+03
            return f"{value / factor:.3g}{unit}"
    return f"{value / 1e12:,.3g}T"


def show_size(n_bytes: float) -> str:
    """Decimal kilobytes and megabytes, as limits are given."""
    if n_bytes < 1000:
        return f"{round(n_bytes)} B"
    return f"{n_bytes / 1e3:.1f} KB" if n_bytes < 1e6 else f"{n_bytes / 1e6:.2f} MB"


def show_cost(name: str, value: float) -> str:
    """A cost by the name that it has in files, with its unit: 13.4k MACs, 97.2 KB."""
    match name:
        case "size_bytes":
            return f"a file of {show_size(value)}"
        case "latency_ms":
            return f"{value:.3g} ms"
        case "macs":
            return f"{show_count(value)} MACs"
        case "params":
            return f"{show_count(value)} parameters"
    return f"{name} {show_count(value)}"
