"""An architecture family as a value, the trial that it samples from, and the limits of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

    from searchkit.core.data_spec import DataSpec
    from searchkit.core.training import TrainingSpace


class Trial(Protocol):
    """What `Space.sample` may ask of a trial: Optuna's names and meanings."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits on what is shipped; None does not limit. `size_bytes` is the size of the exported file as the recipe
    would ship it, `latency_ms` the median at batch 1 on one thread.
    """

    size_bytes: int | None = None
    latency_ms: float | None = None
    params: int | None = None
    macs: int | None = None

    def breaches(self, cost: Mapping[str, float]) -> dict[str, float]:
        """By how much `cost` exceeds each limit, as a ratio above 1 less 1; empty when it fits."""
        return {
            name: cost[name] / limit - 1.0
            for name, limit in asdict(self).items()
            if limit is not None and name in cost and cost[name] > limit
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend. The rungs are at epochs/eta^(rungs-1), …, epochs/eta, epochs."""

    trials: int = 12
    epochs: int = 20
    rungs: int = 3
    eta: int = 3
    least_rung_steps: int = 100  # after 38, the ranks of 12 convolutional networks on digits were noise (measured)
    seconds: float = math.inf  # for the whole line, the stages after the search included

    def rung_epochs(self, steps_an_epoch: int) -> tuple[int, ...]:
        """The epochs at which trials are compared. A rung of fewer than `least_rung_steps` compares noise: it is left
        out, so that a small data set has fewer rungs than a large one.
        """
        epochs = sorted({max(1, round(self.epochs / self.eta**k)) for k in range(self.rungs)})
        return tuple(e for e in epochs if e * steps_an_epoch >= self.least_rung_steps or e == epochs[-1])


@dataclass(frozen=True)
class Space:
    """An architecture family, as a value. A file `spaces/<name>.py` that ends in `SPACE = Space(...)` is all of it.

    arch: a frozen dataclass of plain numbers, strings, bools and tuples of them. accepts: None, or the reason why this
    data is not for it. sample: the only place that calls `suggest_*`. build: knows no Optuna. points: published
    networks by name. skips: {check or stage: reason}, shown in the support matrix.
    """

    name: str
    arch: type
    accepts: Callable[[DataSpec], str | None]
    sample: Callable[[Trial, DataSpec], Any]
    build: Callable[[Any, DataSpec], nn.Module]
    training: TrainingSpace
    task: str  # the default task's name
    budget: Budget
    paper: str
    points: Mapping[str, Any] = field(default_factory=dict)
    skips: Mapping[str, str] = field(default_factory=dict)
