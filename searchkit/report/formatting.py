"""Numbers in words: every one with its unit, its interval and no more digits than it has."""

from __future__ import annotations

import math
from typing import TypedDict

from searchkit.core.estimates import TIE
from searchkit.core.quantities import show_count, show_size
from searchkit.core.serialization import JSON

SHARES = (
    "accuracy", "balanced_accuracy", "macro_f1", "f1", "precision", "recall", "false_alarm_rate", "subset_accuracy",
    "label_accuracy", "exact_match",
)  # fmt: skip
"""Metrics that are shares of 1, shown in percent and their differences in points."""

NAMES = {
    "macro_f1": "macro-F1", "roc_auc": "ROC AUC", "rmse": "RMSE", "mae": "MAE", "mse": "MSE", "r2": "R²",
    "mse_to_clean": "MSE to the clean input", "mse_of_input": "MSE of the noisy input", "elbo": "ELBO, nats",
    "bleu": "BLEU", "chrf": "chrF",
    "frechet": "Fréchet distance", "real_frechet": "Fréchet distance of real training images",
}  # fmt: skip

MEANINGS = {
    "frechet": "The Fréchet distance compares the generated images with the real ones, in features of a small "
    "classifier trained on the train split. 0 means no difference; 1 or more is what repeating one image scores. The "
    "distance of real training images is the best that can be expected. Precision is the share of generated images "
    "that lie among the real ones, recall the share of real images that lie among the generated ones. The features "
    "are not Inception’s, so published FID values do not compare.",
}
"""Of metrics that need more than their name."""

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

COSTS = {
    "size_bytes": "file size",
    "latency_ms": "latency (ms, batch 1, one thread)",
    "params": "parameters",
    "macs": "multiply-accumulates",
}


class Estimate(TypedDict):
    """An `Interval` of the statistics, or a `Difference`, as report.json has it."""

    value: float
    low: float
    high: float


class Comparison(Estimate):
    """A `Difference` of the statistics as report.json has it."""

    indistinguishable: bool
    better: bool | None


class Timing(TypedDict):
    """A `Latency` as report.json has it."""

    ratio: float
    low: float
    high: float
    verdict: str


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, its thousands parted, and a true minus sign."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if abs(value) >= 1e7 or abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    # places may be negative: 12,345 with three digits is 12,300.
    return f"{round(value, places):,.{max(0, places)}f}".replace("-", MINUS)


def count(value: float) -> str:
    """A whole number, its thousands parted."""
    return f"{round(value):,}"


def size(n_bytes: float) -> str:
    """Bytes as decimal kilobytes or megabytes, as limits are given."""
    return show_size(n_bytes)


def short(value: float) -> str:
    """A count on an axis: 12k, 3.4M."""
    return show_count(value).replace("-", MINUS)


def cost(name: str, value: float) -> str:
    """A cost by its name among an artifact's metrics, with its unit."""
    if name == "size_bytes":
        return size(value)
    return f"{number(value)} ms" if name == "latency_ms" else short(value)


def metric_name(name: str) -> str:
    """A metric's name as people write it: macro-F1, RMSE."""
    return NAMES.get(name, name.replace("_", " "))


def metric(name: str, value: float) -> str:
    """A metric's value: shares of 1 in per cent."""
    return f"{100 * value:.1f} %" if name in SHARES else number(value, 4)


def bounds(name: str, low: float, high: float) -> str:
    """The interval alone: [95.1, 98.5]."""
    if name in SHARES:
        return f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", MINUS)
    return f"[{number(low, 4)}, {number(high, 4)}]"


def signed(name: str, value: float) -> str:
    """A difference: +0.3 points, −1.20."""
    if name in SHARES:
        # Below half of the last digit, which would be shown as +0.0 or −0.0.
        text = f"{100 * value:+.1f} points" if abs(value) >= 0.0005 else "0.0 points"
        return text.replace("-", MINUS)
    return ("+" if value > 0 else "") + number(value)


def interval(name: str, found: Estimate) -> str:
    """A metric's value with its interval: 97.1 % [95.1, 98.5]."""
    return f"{metric(name, found['value'])} {bounds(name, found['low'], found['high'])}"


def ends(name: str, found: Estimate) -> str:
    """The interval of a difference, which needs fewer digits than its minuend."""
    if name in SHARES:
        return bounds(name, found["low"], found["high"])
    return f"[{number(found['low'])}, {number(found['high'])}]"


def difference(name: str, found: Estimate) -> str:
    """A difference of a metric with its interval: +0.3 points [−0.1, 0.7]."""
    return f"{signed(name, found['value'])} {ends(name, found)}"


def comparison(found: Comparison) -> str:
    """What a paired difference says, in words."""
    if found["indistinguishable"]:
        return "not distinguishable from"
    return "better than" if found["better"] else "worse than"


def p_value(p: float) -> str:
    """A p value with two digits; below .001 no more than that."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def smaller(before: float, after: float) -> str:
    """How many times smaller or larger a file became."""
    if before == after:
        return "the same size"
    return f"{before / after:.1f}{TIMES} smaller" if after < before else f"{after / before:.1f}{TIMES} larger"


def latency(found: Timing) -> str:
    """The ratio to fp32 with its interval, in words; a difference too small to count is said to be that."""
    ratio, low, high = found["ratio"], found["low"], found["high"]
    if found["verdict"] == "no difference":
        size = "no measurable" if low <= 1 <= high else f"less than {100 * TIE:.0f} %"
        return f"{size} difference in latency ({ratio:.2f}{TIMES} [{low:.2f}, {high:.2f}])"
    if ratio < 1:
        return f"{1 / ratio:.1f}{TIMES} faster [{1 / high:.1f}, {1 / low:.1f}]"  # a reciprocal swaps the ends
    return f"{ratio:.1f}{TIMES} slower [{low:.1f}, {high:.1f}]"


MOST_ENTRIES = 40


def setting(value: JSON) -> str:
    """A setting or fact of any form: a number with four digits, a tensor as "image: uint8, 8 × 8", a list by commas.

    Entries with a count are shown as "cat (12)". Of long lists the first `MOST_ENTRIES` are shown, with their number.
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case {"name": name, "shape": shape, "dtype": dtype}:
            sizes = " × ".join("any" if size is None else str(size) for size in shape)
            return f"{name}: {dtype}, {sizes or 'one number'}"
        case {"name": name, "kind": kind}:
            return f"{name} ({kind})"
        case dict():
            parts = [f"{k} ({v:,})" if isinstance(v, int) else f"{k} {setting(v)}" for k, v in value.items()]
        case list() | tuple():
            parts = [setting(one) for one in value]
        case None | "":
            return "none"
        case _:
            return str(value)
    more = f" … {len(parts)} in all" if len(parts) > MOST_ENTRIES else ""
    return ("; " if any(", " in part for part in parts) else ", ").join(parts[:MOST_ENTRIES]) + more or "none"


def seconds(value: float) -> str:
    """A duration in seconds, minutes or hours."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def plural(n: int, noun: str) -> str:
    """A number with its noun: 1 trial, 12 trials."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
