"""Quantities as people write them: 100KB, 2ms, 50k, 5M, 30m. One sentence where they do not parse."""

from __future__ import annotations

import math
import re

from searchkit.core.errors import BadInput

_FACTORS: dict[str, dict[str, float]] = {
    "size": {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "kib": 1_024, "mib": 1_048_576},
    "latency": {"": 1.0, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "count": {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000},
    "duration": {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
}
_EXAMPLES = {"size": "100KB or 1.5MB", "latency": "2ms or 500us", "count": "50k or 5M", "duration": "90s, 30m or 2h"}
_NAMES = {"size": "a size in bytes", "latency": "a latency", "count": "a count", "duration": "a duration"}


def parse(kind: str, text: str, given: str) -> float:
    """Parse a quantity with a unit.

    Args:
        kind: size, latency, count or duration.
        text: such as "100KB".
        given: the option and its value as the user wrote them, such as --max-size '100KB'; sentences begin with it.

    Returns:
        Bytes, milliseconds, units or seconds.

    Raises:
        BadInput: the text does not parse, or is not above zero.
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
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
