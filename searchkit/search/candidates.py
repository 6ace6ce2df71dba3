"""A candidate: one point of a family's space, with the parameters that made it and what is built and trained of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    """A point of the space: what Optuna is told (params, distributions) and what is built and trained. way: how it was
    chosen. arch is None where the space's own sample raised Infeasible: reason says why.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    arch: Any
    training: Training
    way: str
    system_attrs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def plain(self) -> dict[str, JSON]:
        return {"arch": freeze(self.arch), "training": freeze(self.training)}

    @property
    def key(self) -> str:
        """The same for two candidates that would train the same."""
        return digest(self.plain) if self.arch is not None else digest(self.params)


class Draft:
    """A trial, as far as `Space.sample` may see one, that asks `choose` and keeps what it answered."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._suggest(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution(tuple(choices)))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            self.params[name] = self.choose(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


def draw(space: Space, spec: DataSpec, choose: Choose, *, epochs: int, way: str) -> Candidate:
    """One candidate, all of its values given by `choose`."""
    draft = Draft(choose)
    arch, reason = None, ""
    try:
        arch = space.sample(draft, spec)
    except Infeasible as error:
        reason = str(error)
    training = sample_training(draft, space, spec, epochs=epochs)
    return Candidate(draft.params, draft.distributions, arch, training, way, reason=reason)


def sample_training(draft: Draft, space: Space, spec: DataSpec, *, epochs: int) -> Training:
    """The training's fields that the space leaves open, under the names "train.<field>". A choice of anything but a
    number, a string or a bool goes by its JSON: a database takes no tuples. Augmentations that such data do not have
    (a family may take pictures and tables) are left out, and pre-training where the inputs alone teach nothing.
    """
    values: dict[str, Any] = {**freeze(space.training.default), "epochs": epochs}
    if not spec.self_taught:
        values["pretrain_epochs"] = 0
    for name, allowed in sorted(space.training.ranges.items()):
        if name == "pretrain_epochs" and not spec.self_taught:
            continue
        if isinstance(allowed, Categorical):
            texts = [v if isinstance(v, (str, int, float, bool)) else json.dumps(freeze(v)) for v in allowed.values]
            values[name] = allowed.values[texts.index(draft.suggest_categorical(f"train.{name}", texts))]
        else:
            values[name] = draft.suggest_float(
                f"train.{name}", allowed.low, allowed.high, log=isinstance(allowed, LogUniform)
            )
    values["augment"] = [name for name in values["augment"] if name in spec.augmentations]
    return thaw(Training, values)
