"""Packaged pairs of texts: dates in a dozen notations, to be written as ISO 8601."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date

from searchkit.core.task import Task
from searchkit.data.readers.pairs import Pairs, from_pairs
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {"dates": "write a date, as people do in a dozen ways, as ISO 8601 (8,000 drawn by a seed)"}


N_DATES = 8000

MONTHS = "January February March April May June July August September October November December".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

YEARS = (1950, 2049)  # those that two digits can say


def _ordinal(day: int) -> str:
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


NOTATIONS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    lambda d: f"{d.day} {MONTHS[d.month - 1][:3]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1][:3]} {_ordinal(d.day)} {d.year}",
    lambda d: f"the {_ordinal(d.day)} of {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{DAYS[d.weekday()]}, {MONTHS[d.month - 1]} {_ordinal(d.day)}, {d.year}",
    lambda d: f"{DAYS[d.weekday()][:3]} {d.day} {MONTHS[d.month - 1][:3]} {d.year % 100:02}",
    lambda d: f"{d.day:02}-{MONTHS[d.month - 1][:3].upper()}-{d.year % 100:02}",
    lambda d: f"{d.day}.{d.month}.{d.year}",
    lambda d: f"{d.day:02}.{d.month:02}.{d.year % 100:02}",
    lambda d: f"{d.month}/{d.day}/{d.year}",
    lambda d: f"{d.month}/{d.day}/{d.year % 100:02}",
    lambda d: f"{d.year}/{d.month:02}/{d.day:02}",
)

"""Points have the day first, as in Europe, and strokes the month, as in America; two digits are a year of YEARS."""


def dates(n: int, seed: int) -> Pairs:
    """Draw n dates in different notations, and the same dates in ISO 8601."""
    draw = random.Random(seed)
    first, last = date(YEARS[0], 1, 1).toordinal(), date(YEARS[1], 12, 31).toordinal()
    found: dict[str, str] = {}
    while len(found) < n:
        day = date.fromordinal(draw.randint(first, last))
        # Two notations may give one text (31 May 2049), but never for two dates: a repeated text is only skipped.
        found.setdefault(draw.choice(NOTATIONS)(day), day.isoformat())
    return Pairs(tuple(found), tuple(found.values()))


def load(source: Source) -> Task:
    """Load the packaged task `dates`."""
    assert source.task is not None
    pairs = {"train": dates(N_DATES, seed=0)}
    return make_task(from_pairs(pairs, source.task, f"the task '{source.task}'", source, kind="transcription"), source)
