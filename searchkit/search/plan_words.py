"""What the user is told of a plan of the time, before the first trial."""

from __future__ import annotations

import math

from searchkit.core.quantities import show_seconds
from searchkit.search.settings import SearchSettings
from searchkit.search.time_plan import TimePlan

FEWEST = 5
"""Trials. Fewer compare too little to be a search: candidates are then chosen that are cheaper than the middle one."""


def lines_of(plan: TimePlan, left: float, settings: SearchSettings) -> list[str]:
    """What the user is told of a plan before the first trial."""
    budget = settings.budget
    lines = [describe_setting(plan.precision, plan.channels_last, timed=settings.precision == "auto")]
    if plan.most_seconds is not None:
        lines.append(
            f"the time budget holds about {plan.trials} trials of up to {plan.epochs} epochs, and no training of more "
            f"than {show_seconds(plan.most_seconds)}"
        )
        if settings.final_seconds:
            lines[-1] += f"; the best is then trained on for {show_seconds(settings.final_seconds)}"
    if (seen := plan.seen) is not None:
        part = f"{seen.parts[0]:.0%} of the data" if seen.parts[0] < 1 else ""
        side = f"pictures of {seen.sides[0]:.0%} of the side" if seen.sides[0] < 1 else ""
        first = " and ".join(word for word in (part, side) if word)
        lines.append(f"to fit more trials, the first rung trains on {first}, the last on all")
    if plan.enough_seconds is not None:
        # the search has a share of the time budget: both grow alike
        whole = plan.enough_seconds * (budget.seconds / left if math.isfinite(budget.seconds) and left > 0 else 1.0)
        lines.append(
            f"that is short: of middle-sized candidates it holds {plan.middle_trials}, so cheaper ones are chosen; a "
            f"--time-budget of about {show_seconds(whole)}, more --workers or fewer rows would hold {FEWEST}"
        )
    return lines


def describe_setting(precision: str, channels_last: bool, *, timed: bool) -> str:
    """One line for the user: in which numbers the networks are trained, and why."""
    what = {
        "fp32": "training in fp32: 32-bit numbers throughout",
        "bf16": "training in bf16: products in 16-bit bfloat16, weights and updates in 32 bits",
    }[precision]
    return what + ", channels last in memory" * channels_last + "; the quickest setting on this device" * timed
