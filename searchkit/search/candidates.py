"""A candidate: one point of a family's space, with the parameters that made it and what is built and trained of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import JSON, digest, freeze, thaw
from searchkit.core.space import Space
from searchkit.core.training import Categorical, LogUniform, Training
from searchkit.search.choices import Choose


@dataclass(frozen=True)
class Candidate:
    """A point of the space.

    Attributes:
        params: What Optuna is told, by the parameter's name.
        distributions: The same of each parameter's distribution.
        arch: The family's own dataclass; None if its `sample` raised Infeasible.
        training: How it is to be trained.
        way: How it was chosen, in a word or two.
        system_attrs: What one of Optuna's samplers keeps with its trial.
        reason: Why there is no arch.
        is_control: Whether it is trained from scratch where the others start from trained weights, to compare with.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    arch: Any
    training: Training
    way: str
    system_attrs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    is_control: bool = False

    @property
    def plain(self) -> dict[str, JSON]:
        """What is built and trained, as JSON: "arch" and "training"."""
        return {"arch": freeze(self.arch), "training": freeze(self.training)}

    @property
    def key(self) -> str:
        """The same for two candidates that would train the same."""
        if self.arch is None:
            return digest(self.params)
        return digest(self.plain, "from scratch") if self.is_control else digest(self.plain)


class Draft:
    """A trial, as far as `Space.sample` may see one, that asks `choose` and keeps what it answered.

    Attributes:
        params: The answers so far, by the parameter's name.
        distributions: What was asked for, by the parameter's name.
    """

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number in [low, high]; see `optuna.Trial.suggest_int`."""
        return int(self._suggest(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in [low, high]; see `optuna.Trial.suggest_float`."""
        return float(self._suggest(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._suggest(name, CategoricalDistribution(tuple(choices)))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        # A name that is asked for again gets its first answer, as Optuna's own trial gives it.
        if name not in self.params:
            self.params[name] = self.choose(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


def draw(space: Space, spec: DataSpec, choose: Choose, *, epochs: int, way: str) -> Candidate:
    """Make one candidate, all of its values given by `choose`.

    Args:
        space: The family.
        spec: The data's.
        choose: Gives each parameter its value.
        epochs: Of a trial that reaches the last rung.
        way: How the values are chosen, in a word or two.
    """
    draft = Draft(choose)
    arch, reason = None, ""
    try:
        arch = space.sample(draft, spec)
    except Infeasible as error:
        reason = str(error)
    training = sample_training(draft, space, spec, epochs=epochs)
    return Candidate(draft.params, draft.distributions, arch, training, way, reason=reason)


def sketch(space: Space, spec: DataSpec, choose: Choose) -> Draft:
    """The parameters of the candidate that `draw` would make, and nothing made of them: a third of the time.

    Args:
        space: The family.
        spec: The data's.
        choose: Gives each parameter its value.
    """
    draft = Draft(choose)
    with suppress(Infeasible):
        space.sample(draft, spec)
    _suggest_training(draft, space, spec)
    return draft


def sample_training(draft: Draft, space: Space, spec: DataSpec, *, epochs: int) -> Training:
    """Draw the fields of the training that the space leaves open, as parameters named "train.<field>".

    Augmentations that such data do not have (a family may take pictures and tables) are left out, and pre-training if
    the inputs alone teach nothing.

    Args:
        draft: Is asked for the values.
        space: Has the ranges, and the default of every other field.
        spec: The data's.
        epochs: Of a trial that reaches the last rung.
    """
    values: dict[str, Any] = {**freeze(space.training.default), "epochs": epochs}
    if not spec.self_taught:
        values["pretrain_epochs"] = 0
    values |= _suggest_training(draft, space, spec)
    values["augment"] = [name for name in values["augment"] if name in spec.augmentations]
    return thaw(Training, values)


def _suggest_training(draft: Draft, space: Space, spec: DataSpec) -> dict[str, Any]:
    """The fields of the training that the space leaves open, by name."""
    values: dict[str, Any] = {}
    # In order of name: the order in which a family lists its ranges must not change what a seed draws.
    for name, allowed in sorted(space.training.ranges.items()):
        if name == "pretrain_epochs" and not spec.self_taught:
            continue
        if isinstance(allowed, Categorical):
            # a choice of anything but a number, a string or a bool goes by its JSON: a database takes no tuples
            texts = [v if isinstance(v, (str, int, float, bool)) else json.dumps(freeze(v)) for v in allowed.values]
            values[name] = allowed.values[texts.index(draft.suggest_categorical(f"train.{name}", texts))]
        else:
            values[name] = draft.suggest_float(
                f"train.{name}", allowed.low, allowed.high, log=isinstance(allowed, LogUniform)
            )
    return values
