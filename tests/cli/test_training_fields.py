"""Every field of a training, its plan and its space does something: each row changes one, and the result must change.

A dataclass that gains a field fails here until the field has a row, and a field that the code ignores fails its row.
(The fields of the stages: see test_stage_fields.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from configuration_rows import TINY, require_a_row_for_each_field, task
from torch import Tensor, nn

from searchkit.core.goal import Goal
from searchkit.core.training import Batch, FitPlan, Training, TrainingSpace, TrainState, Uniform
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.tasks.gan.adversary import Adversary
from searchkit.tasks.rl.replay import LEAST_RANDOM, ReplayTraining
from searchkit.train import fit

# ── Training and FitPlan ─────────────────────────────────────────────────────────────────────────────────────────────

# two epochs of 17 steps on the digits; momentum is the optimizer in which the most fields have a say
TRAINING = Training(optimizer="momentum", lr=0.02, batch_size=64, epochs=2, clip_norm=0.5)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 10))


@functools.cache
def trained(training: Training) -> tuple[bytes, Any]:
    """The weights and the number of epochs that a training gives."""
    net = small_net()
    plan = FitPlan(training, seed=1, until=training.epochs)
    state = fit(net, task("digits"), plan, TrainState())
    return b"".join(p.detach().numpy().tobytes() for p in net.parameters()), state.epoch


def critic_loss(objective: str) -> float:
    """Of a generator's drawing, by a critic of this objective that has learnt nothing yet."""
    rival: Any = SimpleNamespace(raw=torch.zeros(2, 1, 8, 8), scale=lambda raw: raw)
    critic = Adversary(Training(objective=objective), rival, seed=0, units=4)
    return float(critic.generator_loss(torch.ones(2, 1, 8, 8)).detach())


class Pretrained(nn.Module):
    """A network of a text task that counts how many batches it was asked to restore."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.n_restored = 0

    def restorer(self) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.float().mean()


class TaughtByItself:
    """The few lines of a task that pre-training asks for."""

    goal = Goal("mse", "minimize")

    def n_examples(self, split: str) -> int:
        return 1

    def batches(self, split: str, training: Training, *, seed: int, device: str) -> list[Batch]:
        return [Batch((torch.ones(1),), torch.ones(1))]

    def loss(self, model: Pretrained, batch: Batch) -> Tensor:
        return model(*batch.inputs)

    def pretext(self, restorer: Pretrained, batch: Batch) -> Tensor:
        restorer.n_restored += 1
        return restorer(*batch.inputs)


def n_restored(epochs: int) -> int:
    net, taught = Pretrained(), TaughtByItself()
    fit(net, taught, FitPlan(Training(pretrain_epochs=epochs, epochs=1), 0, 1), TrainState())  # type: ignore[arg-type]
    return net.n_restored


# field: the value that it is changed to, and another training to change it in where the plain one gives it no say
TRAINING_ROWS: dict[str, tuple[Any, Training]] = {
    "optimizer": ("adamw", TRAINING),
    "momentum": (0.5, TRAINING),
    "lr": (0.01, TRAINING),
    "schedule": ("linear", TRAINING),
    "warmup": (0.4, TRAINING),
    "weight_decay": (0.2, TRAINING),
    "l1": (1e-3, TRAINING),
    "clip_norm": (0.1, TRAINING),
    "batch_size": (128, TRAINING),
    "epochs": (1, TRAINING),
    "augment": (("crop",), TRAINING),
    "label_smoothing": (0.1, TRAINING),
    "mixup": (0.4, TRAINING),
    "ema": (0.9, TRAINING),
    "patience": (1, replace(TRAINING, lr=1e-12, epochs=4)),  # no epoch is better than the first
}
APART: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "objective": (critic_loss, "minimax", "least-squares"),
    "pretrain_epochs": (n_restored, 0, 2),
}


def test_each_field_of_training_has_a_row() -> None:
    require_a_row_for_each_field(Training, {**TRAINING_ROWS, **APART})


@pytest.mark.parametrize("field", TRAINING_ROWS)
def test_each_field_of_training_changes_the_trained_network(field: str) -> None:
    value, training = TRAINING_ROWS[field]
    assert getattr(training, field) != value
    assert trained(replace(training, **{field: value})) != trained(training)


@pytest.mark.parametrize("field", APART)
def test_each_field_of_training_that_few_tasks_read_changes_theirs(field: str) -> None:
    observe, before, after = APART[field]
    assert observe(before) != observe(after)


def recorded_device(plan: FitPlan) -> str:
    """Where the loop asks the task for its batches."""
    seen: list[str] = []

    class Told(TaughtByItself):
        def batches(self, split: str, training: Training, *, seed: int, device: str) -> list[Batch]:
            seen.append(device)
            return [Batch((torch.ones(1, device=device),), torch.ones(1, device=device))]

    try:
        fit(nn.Linear(1, 1), Told(), plan, TrainState())  # type: ignore[arg-type]
    except (NotImplementedError, RuntimeError):  # "meta" has no numbers
        pass
    return seen[0]


def fitted(plan: FitPlan) -> dict[str, Any]:
    net = small_net()
    state = fit(net, task("digits"), plan, TrainState())
    curve = state.numbers["curve"]
    return {
        "weights": b"".join(p.detach().contiguous().numpy().tobytes() for p in net.parameters()),
        "strides": net[2].weight.stride(),  # type: ignore[index, union-attr, operator]
        "steps": [row["steps"] for row in curve],
        "val": ["val" in row for row in curve],
    }


@functools.cache
def plain_fit() -> dict[str, Any]:
    return fitted(FitPlan(TRAINING, 1, 2))


PLAN_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "training": (replace(TRAINING, lr=0.01), ("weights",)),
    "seed": (2, ("weights",)),
    "until": (1, ("steps", "weights")),
    "precision": ("bf16", ("weights",)),
    "channels_last": (True, ("strides",)),
    "seconds": (0.0, ("steps",)),
    "loss": (lambda net, batch: task("digits").loss(net, batch) * 0.5, ("weights",)),
    "validate": (True, ("val",)),
}


def test_each_field_of_a_fit_plan_has_a_row() -> None:
    """recovers: of an agent alone, whose loop reads it (see test_an_agent_that_recovers_explores_little).

    fills: see test_a_training_that_fills_its_time_ends_its_schedule_with_it.
    """
    require_a_row_for_each_field(FitPlan, {**PLAN_ROWS, "device": None, "recovers": None, "fills": None})


@pytest.mark.parametrize("field", PLAN_ROWS)
def test_each_field_of_a_fit_plan_is_obeyed(field: str) -> None:
    value, changed = PLAN_ROWS[field]
    found, plain = fitted(replace(FitPlan(TRAINING, 1, 2), **{field: value})), plain_fit()
    assert all(found[name] != plain[name] for name in changed)


def test_the_device_of_a_fit_plan_is_where_the_batches_are_asked_for() -> None:
    plain = FitPlan(Training(epochs=1), 0, 1)
    assert [recorded_device(replace(plain, device=d)) for d in ("cpu", "meta")] == ["cpu", "meta"]


def test_an_agent_that_recovers_explores_little() -> None:
    chances = []
    for recovers in (False, True):
        playing: Any = SimpleNamespace(plan=FitPlan(TRAINING, 0, 2, recovers=recovers))
        chances.append([ReplayTraining.chance(playing, epoch) for epoch in (0.0, 2.0)])
    assert chances == [[1.0, LEAST_RANDOM], [LEAST_RANDOM, LEAST_RANDOM]]


# ── what a space says of its training ────────────────────────────────────────────────────────────────────────────────


def test_each_field_of_a_training_space_changes_what_is_drawn() -> None:
    spec, plain = task("iris").spec, TINY.training
    changes = {
        "default": replace(plain.default, momentum=0.123),
        "ranges": {"warmup": Uniform(0.2, 0.3)},
    }
    require_a_row_for_each_field(TrainingSpace, changes)
    for field, value in changes.items():
        space = replace(TINY, training=replace(plain, **{field: value}))
        drawn = [draw(s, spec, at(0.5), epochs=3, way="test").training for s in (TINY, space)]
        assert drawn[0] != drawn[1], field
