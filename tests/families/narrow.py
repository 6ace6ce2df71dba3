"""A second family of the tests. Its parameters are named as those of `tiny` are, and have other choices."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import LogUniform, Training, TrainingSpace


@dataclass(frozen=True)
class Arch:
    width: int
    activation: str


def sample(trial: Trial, spec: DataSpec) -> Arch:
    return Arch(trial.suggest_int("width0", 2, 6), trial.suggest_categorical("activation", ["sigmoid", "relu"]))


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    (features,) = spec.inputs[0].shape
    (outputs,) = spec.outputs[0].shape
    assert features is not None and outputs is not None
    between = nn.ReLU() if arch.activation == "relu" else nn.Sigmoid()
    return nn.Sequential(nn.Linear(features, arch.width), between, nn.Linear(arch.width, outputs))


def accepts(spec: DataSpec) -> str | None:
    return None if spec.modality == "tabular" else "it takes tables only."


SPACE = Space(
    name="narrow",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(Training(lr=5e-3, batch_size=32), {"lr": LogUniform(1e-3, 3e-2)}),
    task="breast-cancer",
    budget=Budget(trials=4, epochs=2, rungs=1, eta=2, least_rung_steps=1),
    paper="none: a family for tests",
)
