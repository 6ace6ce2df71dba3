"""Metrics of generated text: corpus BLEU with its confidence interval, and chrF of each sentence, both in percent.

BLEU: Papineni et al. 2002, with the words of the NIST script mteval-v13a and the smoothing of orders without a match by
halves (Chen & Cherry 2014, the third method), the default of sacreBLEU (Post 2018, arXiv:1804.08771). It is no mean
over sentences: its interval resamples them with their counts. chrF: Popović 2015, character n-grams up to 6, recall
weighted twice as much as precision.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WORD_ORDERS = 4
CHARACTER_ORDERS = 6
BETA = 2.0
RESAMPLES = 1000

# In the order of mteval-v13a: &amp; before &lt;, so that "&amp;lt;" becomes "<".
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SPLITS = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # signs stand by themselves
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # but for a point or comma within a number
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # and a dash after a digit
)


def words(text: str) -> list[str]:
    """Split a text into words as mteval-v13a does; case is kept."""
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    # The patterns look at the characters beside a sign, which the first and the last sign would lack.
    text = f" {text} "
    for pattern, parted in _SPLITS:
        text = pattern.sub(parted, text)
    return text.split()


def _ngrams(items: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[k : k + order]) for k in range(len(items) - order + 1))


def bleu_counts(written: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Counts that BLEU needs, one row a sentence.

    Returns:
        (n, 2 + 2·4): words generated and words of the reference; then for each order the n-grams that match, and those
        that were generated.
    """
    rows = np.zeros((len(written), 2 + 2 * WORD_ORDERS))
    for row, one, other in zip(rows, map(words, written), map(words, wanted), strict=True):
        row[:2] = len(one), len(other)
        for order in range(1, WORD_ORDERS + 1):
            # The smaller of both counts: an n-gram written twice matches twice only if the reference repeats it too.
            row[2 * order] = (_ngrams(one, order) & _ngrams(other, order)).total()
            row[2 * order + 1] = max(0, len(one) - order + 1)
    return rows


def bleu(counts: np.ndarray) -> float:
    """BLEU of the corpus whose sentences have these counts, 0 to 100."""
    total = counts.sum(axis=0)
    written, wanted = total[:2]
    logs, halves = [], 1.0
    for order in range(1, WORD_ORDERS + 1):
        matches, possible = total[2 * order], total[2 * order + 1]
        # No sentence is long enough for this order, or not one word matches.
        if not possible or not total[2]:
            return 0.0
        if not matches:
            halves *= 2
        logs.append(math.log((matches or 1 / halves) / possible))
    brevity = min(0.0, 1 - wanted / written)
    return 100 * math.exp(brevity + sum(logs) / WORD_ORDERS)


def bleu_interval(counts: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of BLEU by the percentile bootstrap over sentences (Koehn 2004)."""
    rng = np.random.default_rng(seed)
    found = [bleu(counts[rng.integers(len(counts), size=len(counts))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def chrf(written: str, wanted: str) -> float:
    """ChrF of one sentence, 0 to 100, as sacreBLEU computes it.

    Blanks do not count; an order that one of the texts is too short for is left out.
    """
    one, other = ("".join(text.split()) for text in (written, wanted))
    precisions, recalls = [], []
    for order in range(1, CHARACTER_ORDERS + 1):
        here, there = _ngrams(one, order), _ngrams(other, order)
        if here and there:
            matches = (here & there).total()
            precisions.append(matches / here.total())
            recalls.append(matches / there.total())
    if not precisions:
        return 100.0 if one == other else 0.0  # one of them has no character
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    if precision + recall == 0:
        return 0.0
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
