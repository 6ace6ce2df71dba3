"""Packaged pairs of texts: numbers in English words, to be written as digits."""

from __future__ import annotations

import random

from searchkit.core.task import Task
from searchkit.data.readers.pairs import Pairs, from_pairs
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {"number-words": "write as digits a number in English words, up to 999,999 (6,000 drawn by a seed)"}

N_NUMBERS = 6000
MOST_DIGITS = 6
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """Spell a number from 0 to 999,999 in American English, without "and"."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, size)
    return f"{in_words(many)} {name}" + (f" {in_words(rest)}" if rest else "")


def number_words(n: int, seed: int) -> Pairs:
    """Draw n different numbers, as many of each number of digits as there are, in words and in digits."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:
        # The number of digits is drawn first: nine of ten numbers up to 999,999 have six.
        digits = draw.randint(1, MOST_DIGITS)
        number = draw.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
        found.setdefault(in_words(number), str(number))
    return Pairs(tuple(found), tuple(found.values()))


def load(source: Source) -> Task:
    """Load the packaged task `number-words`."""
    assert source.task is not None
    pairs = {"train": number_words(N_NUMBERS, seed=0)}
    return make_task(from_pairs(pairs, source.task, f"the task '{source.task}'", source, kind="transcription"), source)
