"""The learning rate over a training: by its steps, or by the clock."""

from __future__ import annotations

import math
import time

from searchkit.core.training import FitPlan, Training, TrainState


def lr_factor(training: Training, step: int, n_steps: int) -> float:
    """The share of the peak learning rate at `step`: linear warm-up, then the schedule over what is left.

    Args:
        training: Names the schedule and the share of the steps that warms up; "constant" has no warm-up.
        step: From 0.
        n_steps: Of the whole training.

    Raises:
        ValueError: There is no schedule of this name.
    """
    # At least one step, and (step + 1): the rate of the first step is not 0.
    n_warmup = max(1, round(training.warmup * n_steps))
    if step < n_warmup and training.schedule != "constant":
        return (step + 1) / n_warmup
    progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
    match training.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return max(0.5 * (1.0 + math.cos(math.pi * progress)), 1e-3)
        case "linear":
            return max(1.0 - progress, 1e-3)
        case "step":  # a tenth at half and at three quarters of the way (He et al. 2016, arXiv:1512.03385)
            return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
    raise ValueError(f"no schedule named '{training.schedule}'; they are constant, cosine, linear, step")


class Pace:
    """How far a training is on its schedule: by its steps, or by the clock if that is further and it has to fill it."""

    def __init__(self, plan: FitPlan, n_examples: int, state: TrainState) -> None:
        self.plan = plan
        self.steps_an_epoch = max(1, math.ceil(n_examples / plan.training.batch_size))
        self.before, self.since = float(state.numbers.get("progress", 0.0)), time.monotonic()

    def progress(self) -> float:
        """By the clock, 0 to 1: what calls before this one came to, and of the rest the share of the time gone."""
        gone = (time.monotonic() - self.since) / max(self.plan.seconds, 1e-9)
        return self.before + (1.0 - self.before) * min(1.0, gone)

    def lr_factor(self, epoch: int, step: int) -> float:
        """The share of the peak learning rate at a step of an epoch, both counted from 0."""
        training = self.plan.training
        done, n_steps = epoch * self.steps_an_epoch + step, self.steps_an_epoch * training.epochs
        if self.plan.fills:
            done = max(done, int(self.progress() * n_steps))
        return lr_factor(training, done, n_steps)
