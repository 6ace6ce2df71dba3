"""A family of the tests: small enough that a search of it takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace


@dataclass(frozen=True)
class Arch:
    widths: tuple[int, ...]
    activation: str


def sample(trial: Trial, spec: DataSpec) -> Arch:
    depth = trial.suggest_int("depth", 1, 3)
    widths = tuple(trial.suggest_int(f"width{i}", 4, 32, step=4) for i in range(depth))
    if widths == (4, 4, 4):
        raise Infeasible("three layers of four are too narrow")
    return Arch(widths, trial.suggest_categorical("activation", ["relu", "tanh"]))


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    (features,) = spec.inputs[0].shape
    assert features is not None
    layers: list[nn.Module] = []
    for width in arch.widths:
        layers += [nn.Linear(features, width), nn.ReLU() if arch.activation == "relu" else nn.Tanh()]
        features = width
    (outputs,) = spec.outputs[0].shape
    assert outputs is not None
    return nn.Sequential(*layers, nn.Linear(features, outputs))


def accepts(spec: DataSpec) -> str | None:
    return None if spec.modality == "tabular" else "it takes tables only."


SPACE = Space(
    name="tiny",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        Training(lr=5e-3, batch_size=32),
        {"lr": LogUniform(1e-3, 3e-2), "optimizer": Categorical(("adamw", "momentum"))},
    ),
    task="breast-cancer",
    budget=Budget(trials=6, epochs=4, rungs=2, eta=2, least_rung_steps=1),
    paper="none: a family for tests",
)
