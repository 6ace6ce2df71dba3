"""A space of four parameters of different kinds that nothing is built of, and what samplers propose in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, create_trial
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.serialization import derive_seed
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import LogUniform, Training, TrainingSpace
from searchkit.search.candidates import Candidate
from searchkit.search.named_samplers import Proposer, sampler_of
from searchkit.search.sampler import Ask, Directions, SearchView

SPEC = DataSpec("tabular", (TensorSpec("features", (4,)),), (TensorSpec("logits", (3,)),))


@dataclass(frozen=True)
class Arch:
    depth: int
    width: int
    rate: float
    kind: str


def sample(trial: Trial, spec: DataSpec) -> Arch:
    return Arch(
        trial.suggest_int("depth", 1, 6),
        trial.suggest_int("width", 4, 256, log=True),
        trial.suggest_float("rate", 0.0, 1.0),
        trial.suggest_categorical("kind", ["a", "b", "c"]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    raise AssertionError("nothing is built to propose")


SPACE = Space(
    "golden", Arch, lambda spec: None, sample, build,
    TrainingSpace(Training(lr=0.01), {"lr": LogUniform(1e-3, 1e-1)}), "iris", Budget(), "none",
)  # fmt: skip


SCORE = {"a": 0.0, "b": 0.5, "c": 0.2}


def weigh(candidate: Candidate) -> tuple[float, bool]:
    parameters = float(candidate.arch.depth * candidate.arch.width)
    return parameters, parameters <= 300


def proposer(name: str, *, directions: Directions = ("maximize",), **changes: Any) -> Proposer:
    plain = SearchView(SPACE, SPEC, directions, 5, trials=16, epochs=3, weigh=weigh, limited=False)
    return Proposer(sampler_of(name), replace(plain, **changes))


def attempted(given: Proposer, trials: Sequence[FrozenTrial], attempt: int) -> Candidate | None:
    """What the sampler itself proposes at an attempt, known or not."""
    seed = derive_seed(given.view.seed, "propose", len(trials), attempt)
    return given.sampler.propose(trials, Ask(len(trials), attempt, seed, frozenset()), given.view)


def told(
    candidate: Candidate, number: int, directions: Sequence[str], constraints: dict[str, float] | None = None
) -> FrozenTrial:
    """A finished trial whose values are arithmetic on its parameters."""
    arch, training = candidate.arch, candidate.training
    score = SCORE[arch.kind] - abs(arch.depth - 4) / 5 - (arch.rate - 0.3) ** 2 - abs(math.log10(training.lr) + 2) / 4
    values = [score, float(arch.depth * arch.width)][: len(directions)]
    trial = create_trial(
        values=values,
        params=candidate.params,
        distributions=candidate.distributions,
        system_attrs=dict(candidate.system_attrs),
        constraints=constraints,
    )
    trial.number = number
    return trial


def proposals(given: Proposer, n: int) -> tuple[list[Candidate], list[FrozenTrial]]:
    """n candidates, each proposed after those before it were told; and the trials before the last."""
    found: list[Candidate] = []
    trials: list[FrozenTrial] = []
    for number in range(n):
        if found:
            trials.append(told(found[-1], number - 1, given.view.directions))
        candidate = given.propose(trials, {c.key for c in found})
        assert candidate is not None
        found.append(candidate)
    return found, trials
