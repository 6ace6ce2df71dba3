"""A packaged series to be continued: the delay equation of Mackey & Glass (1977), which is chaotic."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from searchkit.core.task import Task
from searchkit.data.dataset import Column, RawDataset
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task
from searchkit.tasks.problems.forecasting import unsuited

EMBEDDED = {"mackey-glass": "chaotic series to be continued: 24 steps after 64, 3,000 steps, delay 17 (generated)"}

STEPS = 3_000


@cache
def mackey_glass(steps: int = STEPS, delay: int = 17, transient: int = 300) -> np.ndarray:
    """Generate the series of Mackey & Glass (1977, Oscillation and chaos in physiological control systems).

    dx/dt = 0.2 x(t − delay) / (1 + x(t − delay)^10) − 0.1 x, by the method of Runge and Kutta, ten steps to one of
    time, from 1.2 for all time before. The power is by products, so that the same bits come out everywhere: chaos
    would make any other one visible.

    Args:
        steps: How many values, one apart in time.
        delay: In time; chaotic from 16.8 on (Farmer 1982).
        transient: Steps at the beginning that are left out.

    Returns:
        (steps,) float64.
    """
    per_step = 10
    dt, lag = 1 / per_step, delay * per_step
    x = [1.2] * (lag + 1)

    def slope(now: float, then: float) -> float:
        square = then * then
        fourth = square * square
        return 0.2 * then / (1.0 + fourth * fourth * square) - 0.1 * now

    for k in range((transient + steps) * per_step):
        # x[k] is one delay before x[-1]. In the middle of the step the delayed value is the mean of its two ends.
        now, then, soon = x[-1], x[k], x[k + 1]
        between = 0.5 * (then + soon)
        a = slope(now, then)
        b = slope(now + 0.5 * dt * a, between)
        c = slope(now + 0.5 * dt * b, between)
        d = slope(now + dt * c, soon)
        x.append(now + dt / 6 * (a + 2 * b + 2 * c + d))
    return np.array(x[lag + transient * per_step :: per_step][1 : steps + 1])


def load(source: Source) -> Task:
    """Load the packaged task, with a window of 64 and a horizon of 24 if the user names none."""
    found = RawDataset(
        name="mackey-glass",
        x=mackey_glass()[:, None],
        target=None,
        where="the task 'mackey-glass'",
        modality="series",
        kind="forecasting",
        columns=(Column("x", "numeric"),),
        targets=("x",),
        about="one step of time apart",
    )
    if source.kind not in (None, "forecasting"):
        raise unsuited(found.where, source.kind)
    return make_task(found, replace(source, window=source.window or 64, horizon=source.horizon or 24))
