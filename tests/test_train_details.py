"""Details of the training loop that a whole training does not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.tasks import registry
from searchkit.train import fit, lr_factor, make_optimizer

TRAINING = Training(lr=0.01, epochs=2, batch_size=16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def iris() -> Any:
    return registry.load({"task": "iris", "split_seed": 0})


def test_time_that_is_up_ends_the_epoch_after_one_step(iris: Any) -> None:
    state = fit(network(), iris, FitPlan(TRAINING, seed=0, until=2, seconds=0.0), TrainState())
    assert [row["steps"] for row in state.numbers["curve"]] == [1]
    whole = fit(network(), iris, FitPlan(TRAINING, seed=0, until=2), TrainState())
    assert [row["steps"] for row in whole.numbers["curve"]] == [len(list(iris.batches(
        "train", TRAINING, seed=0, device="cpu")))] * 2  # fmt: skip


@pytest.mark.parametrize("momentum", [0.8, 0.95])
def test_the_momentum_of_adamw_is_its_first_beta(momentum: float) -> None:
    training = replace(TRAINING, optimizer="adamw", momentum=momentum, weight_decay=0.0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    both = (make_optimizer(ours, training), torch.optim.AdamW(
        theirs.parameters(), lr=training.lr, betas=(momentum, 0.999), weight_decay=0.0))  # fmt: skip
    for step in range(3):
        for net, optimizer in zip((ours, theirs), both, strict=True):
            optimizer.zero_grad()
            (net(torch.ones(1, 3)) * (step - 1.5)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_counters_are_those_of_the_last_step_in_an_average_of_weights(iris: Any) -> None:
    net = network()
    state = fit(net, iris, FitPlan(replace(TRAINING, ema=0.9), seed=0, until=2), TrainState())
    steps = sum(row["steps"] for row in state.numbers["curve"])
    assert int(net[1].num_batches_tracked) == steps > 2  # type: ignore[index]


class Taught(nn.Linear):
    """A network that learns first by a layer of random weights over it."""

    def restorer(self) -> nn.Module:
        return nn.Sequential(self, nn.Linear(3, 4))


class WithPretext:
    """A task whose pretext is to tell the input itself."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        return (restorer(*batch.inputs) - batch.inputs[0]).square().mean()


def test_pre_training_depends_on_the_seed_alone(iris: Any) -> None:
    plan = FitPlan(replace(TRAINING, pretrain_epochs=2), seed=3, until=1)
    losses = []
    for elsewhere in (1, 2):
        torch.manual_seed(0)
        net: Any = Taught(4, 3)
        torch.manual_seed(elsewhere)
        state = fit(net, WithPretext(iris), plan, TrainState())  # type: ignore[arg-type]
        losses.append([row["loss"] for row in (*state.numbers["pretraining"], *state.numbers["curve"])])
    assert len(losses[0]) == 3 and losses[0] == losses[1]


def test_the_step_schedule_falls_at_the_half_and_at_three_quarters() -> None:
    training = replace(TRAINING, schedule="step", warmup=0.0)
    factors = [lr_factor(training, step, 101) for step in (0, 50, 51, 75, 76, 100)]  # the first step warms up
    assert factors == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


class Judged:
    """A task whose values on val are given, one an epoch."""

    def __init__(self, task: Any, values: list[float]) -> None:
        self.task, self.values = task, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def evaluate(self, predict: Any, split: str) -> Any:
        value = self.values.pop(0)
        return replace(self.task.evaluate(predict, split), scores=np.full(3, value))


def test_patience_that_is_resumed_still_gives_back_the_best_epoch(iris: Any) -> None:
    """The best was before the interruption, and nothing after it is better."""
    training = replace(TRAINING, epochs=4, patience=3)
    whole, parts = network(), network()
    fit(whole, Judged(iris, [0.5, 0.9, 0.1, 0.2]), FitPlan(training, seed=0, until=4), TrainState())  # type: ignore[arg-type]
    task: Any = Judged(iris, [0.5, 0.9, 0.1, 0.2])
    state = fit(parts, task, FitPlan(training, seed=0, until=2), TrainState())
    parts = network()
    state = fit(parts, task, FitPlan(training, seed=0, until=4), state)
    assert state.numbers["best"] == 0.9 and state.numbers["best_epoch"] == 2
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_patience_without_one_finite_value_leaves_the_last_weights(iris: Any) -> None:
    training = replace(TRAINING, epochs=2, patience=5)
    net = network()
    state = fit(net, Judged(iris, [float("nan")] * 2), FitPlan(training, seed=0, until=2), TrainState())  # type: ignore[arg-type]
    last = {
        name.removeprefix("weights."): value for name, value in state.tensors.items() if name.startswith("weights.")
    }
    torch.testing.assert_close(dict(net.state_dict()), last)
