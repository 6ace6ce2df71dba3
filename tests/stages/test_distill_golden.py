"""Golden numbers of distillation: the loss by hand, with the square of the temperature, for every kind of answer."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stage_line import trial
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core.training import Batch, Teacher
from searchkit.stages import distill
from searchkit.stages.distill import Distill, Ensemble
from searchkit.stages.pipeline import apply
from searchkit.tasks.problems.classification import Classes, Labels, TwoClasses
from searchkit.tasks.problems.reconstruction import Rebuild
from searchkit.tasks.problems.regression import Values
from searchkit.tasks.text.language import NextToken
from searchkit.train import distillation

STUDENT = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]
TEACHER = [[2.0, 0.0, -1.0], [-0.5, 1.0, 4.0]]


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(v / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def divergence(temperature: float) -> float:
    """KL(teacher || student) of the softened rows: the mean over the rows, the sum over the classes."""
    total = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(STUDENT)


def bernoulli(temperature: float) -> float:
    """The same of independent labels: the mean over rows and labels."""
    found = []
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        for s, t in zip(student, teacher, strict=True):
            p, q = (1 / (1 + math.exp(-v / temperature)) for v in (t, s))
            found.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return sum(found) / len(found)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_softened_classes_diverge_by_the_formula_times_the_temperature_squared(temperature: float) -> None:
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    expected = temperature**2 * divergence(temperature)
    assert float(Classes(3).distillation_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    steps = NextToken(2, 3, np.ones(3))
    assert float(steps.distillation_loss(student[None], teacher[None], temperature)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_softened_labels_diverge_by_the_formula_times_the_temperature_squared(temperature: float) -> None:
    expected = temperature**2 * bernoulli(temperature)
    for kind in (Labels(3), TwoClasses()):
        found = kind.distillation_loss(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_numbers_are_matched_by_their_squared_difference_at_any_temperature() -> None:
    expected = sum((s - t) ** 2 for a, b in zip(STUDENT, TEACHER, strict=True) for s, t in zip(a, b, strict=True)) / 6
    for match in (Values.distillation_loss, Rebuild.distillation_loss):
        for temperature in (1.0, 4.0):
            found = match(SimpleNamespace(), torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)  # type: ignore[arg-type]
            assert float(found) == pytest.approx(expected)


class Two:
    """A task with a loss of 3 and a match of 7 times the temperature."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(*batch.inputs).sum() * 0 + 3.0

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        assert not teacher.training
        return student(*batch.inputs).sum() * 0 + 7.0 * temperature


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (0.0, 2.0), (1.0, 2.0), (0.25, 1.5)])
def test_the_weight_is_the_teachers_part_of_the_loss(weight: float, temperature: float) -> None:
    task: Any = Two()
    loss = distillation(task, Teacher(nn.Linear(2, 2).train(), temperature, weight), "cpu")
    found = loss(nn.Linear(2, 2), Batch((torch.zeros(1, 2),), torch.zeros(1)))
    assert float(found.detach()) == pytest.approx((1 - weight) * 3.0 + weight * 7.0 * temperature)


def test_the_students_own_penalty_is_seen_through_distillation() -> None:
    class Penalized(nn.Linear):
        def aux_loss(self) -> Tensor:
            return torch.tensor(11.0)

    class Asking(Two):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().loss(model, batch) + model.aux_loss()  # type: ignore[operator]

    task: Any = Asking()
    batch = Batch((torch.zeros(1, 2),), torch.zeros(1))
    for student, penalty in ((Penalized(2, 2), 11.0), (nn.Linear(2, 2), 0.0)):
        loss = distillation(task, Teacher(nn.Linear(2, 2), 1.0, 0.5), "cpu")(student, batch)
        assert float(loss.detach()) == pytest.approx(0.5 * (3.0 + penalty) + 3.5)


def test_an_ensemble_answers_the_mean_of_its_members() -> None:
    members = [nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Ensemble(members)(x), (members[0](x) + members[1](x) + members[2](x)) / 3)


def test_the_epochs_that_distillation_plans_count_the_control_and_the_teachers() -> None:
    assert Distill(epochs=10, ensemble=3).planned_epochs == pytest.approx(29.0)
    assert Distill(epochs=10, ensemble=1).planned_epochs == pytest.approx(23.0)


@pytest.mark.parametrize(
    ("before", "control", "distilled", "kept"),
    [
        (0.5, 0.6, 0.7, "distilled"),
        (0.5, 0.6, math.nan, "control"),
        (0.5, math.nan, 0.4, "before distillation"),
        (0.5, math.nan, math.nan, "before distillation"),
        (math.nan, 0.5, 0.5, "distilled"),
        (0.5, 0.6, math.inf, "control"),
    ],
)
def test_a_candidate_without_a_value_on_val_is_not_kept(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, before: float, control: float, distilled: float, kept: str
) -> None:
    values = iter([0.5, before, control, distilled])  # the teacher's comes first
    monkeypatch.setattr(distill, "validation", lambda net, task, device: next(values))
    made = apply((Distill(epochs=1, ensemble=1),), trial(ctx, 0), ctx)[-1]
    assert made.notes["kept"] == kept
