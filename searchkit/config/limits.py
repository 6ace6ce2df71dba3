"""How much a search may spend, what its result may cost, and where the results go."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from searchkit.config import naming
from searchkit.config.options import option, settle
from searchkit.core import quantities
from searchkit.core.errors import BadInput
from searchkit.core.space import Budget, Limits

MANY_TRIALS = 1000
"""The number of trials if a time budget alone is to end the search."""


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """How much a search may spend. None leaves a number to the family; `resolved` fills it in.

    Raises:
        BadInput: a value is not allowed.
    """

    time_budget: float | None = option(
        None,
        "Time for the search, compression and evaluation together.",
        kind="duration",
        low=0,
        above=True,
        usual="no limit",
        example="30m",
    )
    trials: int | None = option(
        None,
        "Number of networks to train.",
        kind="whole",
        low=1,
        usual="the family's; as many as fit a time budget",
        example="40",
    )
    epochs: int | None = option(
        None,
        "Number of epochs of a trial that reaches the last rung.",
        kind="whole",
        low=1,
        usual="the family's",
        example="20",
    )
    rungs: int | None = option(
        None,
        "Number of rungs of successive halving; 1 trains every network to the end.",
        kind="whole",
        low=1,
        usual="the family's",
        example="1",
    )
    eta: int | None = option(None, "Factor between the epochs of two rungs.", kind="whole", low=2, internal=True)
    least_rung_steps: int | None = option(
        None, "Number of training steps below which a rung is left out.", kind="whole", low=0, internal=True
    )
    fixed_epochs: bool = option(
        False, "Switch that keeps the epochs as they are, because the user chose them.", kind="switch", internal=True
    )

    def __post_init__(self) -> None:
        settle(self)

    def resolved(self, family: Budget) -> BudgetConfig:
        """Fill in what was not given from a family's budget. A time budget alone decides when the search ends."""
        trials = self.trials or (family.trials if self.time_budget is None else MANY_TRIALS)
        return BudgetConfig(
            time_budget=self.time_budget,
            trials=trials,
            epochs=self.epochs or family.epochs,
            rungs=self.rungs or family.rungs,
            eta=self.eta or family.eta,
            # 0 is a value here, and means that no rung is left out.
            least_rung_steps=family.least_rung_steps if self.least_rung_steps is None else self.least_rung_steps,
            fixed_epochs=self.fixed_epochs or self.epochs is not None,
        )

    def budget(self) -> Budget:
        """What the search takes: missing numbers are those of `Budget`."""
        names = ("trials", "epochs", "rungs", "eta", "least_rung_steps")
        known = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Budget(**known, seconds=math.inf if self.time_budget is None else self.time_budget)

    def raised(self, more: BudgetConfig) -> BudgetConfig:
        """The budget of a run that goes on, with more trials or more time.

        Raises:
            BadInput: a number is below the run's own, for what is spent cannot be had back.
        """
        before = self.budget()
        if more.trials is not None and more.trials < before.trials:
            raise BadInput(
                f"{naming.given('trials', more.trials)} is below the run's own {before.trials}; "
                f"{naming.mention('resume')} can only raise it."
            )
        if more.time_budget is not None and more.time_budget < before.seconds:
            endless = math.isinf(before.seconds)
            own = "no time budget, so it has no end" if endless else quantities.show_seconds(before.seconds)
            raise BadInput(
                f"{naming.mention('time_budget')} {quantities.show_seconds(more.time_budget)} is below the run's own "
                f"({own}); {naming.mention('resume')} can only raise it."
            )
        time_budget = self.time_budget if more.time_budget is None else more.time_budget
        return replace(self, trials=more.trials or self.trials, time_budget=time_budget)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Hard limits on what is shipped; a network that exceeds one is rejected before it is trained.

    Raises:
        BadInput: a value is not allowed.
    """

    max_size: int | None = option(
        None,
        "Maximum size of the shipped model file in bytes.",
        kind="size",
        low=1,
        usual="no limit",
        example="100KB",
    )
    max_latency: float | None = option(
        None,
        "Maximum latency of one example, measured on one thread of this machine.",
        kind="latency",
        low=0,
        above=True,
        usual="no limit",
        example="2ms",
    )
    max_params: int | None = option(
        None, "Maximum number of trainable parameters.", kind="count", low=1, usual="no limit", example="50k"
    )
    max_macs: int | None = option(
        None,
        "Maximum number of multiply-accumulate operations for one example.",
        kind="count",
        low=1,
        usual="no limit",
        example="5M",
    )

    def __post_init__(self) -> None:
        settle(self)

    def limits(self) -> Limits:
        """The limits by the names of an artifact's metrics."""
        return Limits(self.max_size, self.max_latency, self.max_params, self.max_macs)


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """The name of the run, and the folders that results are written to."""

    name: str | None = option(
        None, "Name of the run, and of its folder.", usual="space-task-number", example="cnn-digits-1"
    )
    runs: str = option("runs", "Folder that holds the runs.", kind="path", example="/data/runs")
    reports: str | None = option(
        None,
        "Folder that reports are written to, each in a folder with the run's name.",
        kind="path",
        usual="the folder report in the run's own folder",
        example="public",
    )

    def __post_init__(self) -> None:
        settle(self)
