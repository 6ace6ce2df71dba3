"""An architecture family as a value, the trial that it samples from, and the limits and budget of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from searchkit.core.typed import Range

if TYPE_CHECKING:
    from torch import nn

    from searchkit.core.data_spec import DataSpec
    from searchkit.core.training import TrainingSpace


class Trial(Protocol):
    """The part of Optuna's trial that `Space.sample` may use, with Optuna's names and meanings."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer in [low, high], both included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of the choices."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits on the shipped model; None means no limit.

    Attributes:
        size_bytes: Size of the exported file as the recipe ships it.
        latency_ms: Median latency at batch size 1 on one thread.
        params: Trainable parameters.
        macs: Multiply-accumulates for one example.
    """

    size_bytes: Annotated[int | None, Range(1)] = None
    latency_ms: Annotated[float | None, Range(0, open=True)] = None
    params: Annotated[int | None, Range(1)] = None
    macs: Annotated[int | None, Range(0)] = None

    def breaches(self, cost: Mapping[str, float]) -> dict[str, float]:
        """Return the limits that are exceeded.

        Args:
            cost: Costs by the names of the limits; missing ones are not checked.

        Returns:
            The excess as a fraction of the limit, by name; 0.5 means 50 % too much. Empty if everything fits.
        """
        return {
            name: cost[name] / limit - 1.0
            for name, limit in asdict(self).items()
            if limit is not None and name in cost and cost[name] > limit
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend.

    Rungs of successive halving are at epochs / eta^(rungs - 1), …, epochs / eta, epochs.

    Attributes:
        trials: Number of trials.
        epochs: Epochs of a trial that is not stopped early.
        rungs: Number of rungs.
        eta: Reduction factor: one in eta trials is promoted to the next rung.
        least_rung_steps: Fewest training steps at which a rung may compare trials.
        seconds: Time budget of the whole run, including the stages after the search.
    """

    trials: Annotated[int, Range(1)] = 12
    epochs: Annotated[int, Range(1)] = 20
    rungs: Annotated[int, Range(1)] = 3
    eta: Annotated[int, Range(2)] = 3
    least_rung_steps: Annotated[int, Range(0)] = (
        100  # after 38, the ranks of 12 convolutional networks on digits were noise (measured)
    )
    seconds: Annotated[float, Range(0, open=True)] = (
        math.inf
    )  # for the whole line, the stages after the search included

    def rung_epochs(self, steps_an_epoch: int) -> tuple[int, ...]:
        """Return the epochs at which trials are compared.

        Rungs of fewer than `least_rung_steps` training steps would compare noise and are left out, so a small data set
        has fewer rungs.

        Args:
            steps_an_epoch: Training steps per epoch.
        """
        # A set: with few epochs several rungs round to the same one.
        epochs = sorted({max(1, round(self.epochs / self.eta**k)) for k in range(self.rungs)})
        # The last rung is the end of the training, and is kept however few steps it has.
        return tuple(e for e in epochs if e * steps_an_epoch >= self.least_rung_steps or e == epochs[-1])


@dataclass(frozen=True)
class Sharing:
    """How the weights of one network of a family lie in those of another of the same kind.

    A tensor of the one is a slice of the tensor that has the same place in the other: its first channels, and the
    middle of its kernel. What a family says here is the rest.

    Attributes:
        names: The other network's name of a module, by the name in this one; None if the other network has no such
            module. It holds for what is inside too. A module that is not here has the same name in both.
        joined: Of how many vectors, end to end, the inputs of a module are made, by its name in this network.
        last: Whether the last channels are shared and not the first ones.
    """

    names: Mapping[str, str | None] = field(default_factory=dict)
    joined: Mapping[str, int] = field(default_factory=dict)
    last: bool = False


@dataclass(frozen=True)
class Space:
    """An architecture family, as a value. A file that ends in `SPACE = Space(...)` is all that a family needs.

    Attributes:
        name: Name of the family and of its file.
        arch: A frozen dataclass of plain numbers, strings, bools and tuples of them.
        accepts: Returns None if the family can handle the data, else the reason why not.
        sample: Samples an architecture; the only place that calls `suggest_*`.
        build: Builds the network from an architecture, without Optuna. Raises Infeasible if it cannot exist.
        training: Defaults and ranges of the training settings.
        task: Name of the default task.
        budget: Default budget of a search.
        paper: Citation of the paper.
        points: Published networks by name.
        skips: Reason by name of a conformance check or stage that cannot apply; the support matrix shows it.
        shares: Returns how the weights of the first architecture's network lie in those of the second's, or None if the
            two are of different kinds. A family without it has no weight-sharing supernet.
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
    shares: Callable[[Any, Any], Sharing | None] | None = None
