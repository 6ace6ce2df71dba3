"""Golden numbers of the training loop: each optimizer's steps, each schedule and each part of a step, by hand.

A network of one matrix and one bias and a task whose gradient is written down here, so that every expected value is
arithmetic that does not call the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.core.goal import Goal
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.train import fit, lr_factor, make_optimizer

PLAIN = Training(
    optimizer="sgd", lr=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, clip_norm=0.0, batch_size=4, epochs=1
)
WEIGHT, BIAS = [[0.5, -1.0], [2.0, 0.25]], [0.3, -0.7]
GRADIENTS = ([[0.2, -0.4], [1.0, 0.1]], [0.5, -0.3])  # of the weight and the bias; the second step's are negated halves


def affine() -> nn.Linear:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(WEIGHT))
        net.bias.copy_(torch.tensor(BIAS))
    return net


def given_gradients(step: int) -> tuple[Tensor, Tensor]:
    factor = (1.0, -0.5)[step]
    return factor * torch.tensor(GRADIENTS[0]), factor * torch.tensor(GRADIENTS[1])


class Planted:
    """A task whose loss has the gradients above, whatever the network answers; `losses` are those of val, in turn."""

    goal = Goal("mse", "minimize")

    def __init__(self, n_steps: int = 1) -> None:
        self.n_steps = n_steps
        self.rates: list[float] = []

    def n_examples(self, split: str) -> int:
        return 4 * self.n_steps

    def batches(self, split: str, training: Training, *, seed: int, device: str) -> list[Batch]:
        return [Batch((torch.zeros(4, 2),), torch.tensor(step)) for step in range(self.n_steps)]

    def loss(self, model: nn.Linear, batch: Batch) -> Tensor:
        weight, bias = given_gradients(int(batch.target) % 2)
        return (model.weight * weight).sum() + (model.bias * bias).sum()


def trained(training: Training, n_steps: int = 1) -> nn.Linear:
    net, task = affine(), Planted(n_steps)
    fit(net, task, FitPlan(training, seed=0, until=training.epochs), TrainState())  # type: ignore[arg-type]
    return net


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-7)


# ── optimizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def sgd(p: Tensor, g: Callable[[int], Tensor], lr: float, decay: float) -> Tensor:
    for step in range(2):
        p = p - lr * (g(step) + decay * p)
    return p


def nesterov(p: Tensor, g: Callable[[int], Tensor], lr: float, decay: float) -> Tensor:
    velocity = torch.zeros_like(p)
    for step in range(2):
        gradient = g(step) + decay * p
        velocity = 0.8 * velocity + gradient
        p = p - lr * (gradient + 0.8 * velocity)
    return p


def rmsprop(p: Tensor, g: Callable[[int], Tensor], lr: float, decay: float) -> Tensor:
    square = torch.zeros_like(p)
    for step in range(2):
        gradient = g(step) + decay * p
        square = 0.9 * square + 0.1 * gradient**2
        p = p - lr * gradient / (square.sqrt() + 1e-8)
    return p


def adamw(p: Tensor, g: Callable[[int], Tensor], lr: float, decay: float) -> Tensor:
    first, second = torch.zeros_like(p), torch.zeros_like(p)
    for step in range(2):
        p = p * (1 - lr * decay)
        first = 0.8 * first + 0.2 * g(step)
        second = 0.999 * second + 0.001 * g(step) ** 2
        mean, square = first / (1 - 0.8 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        p = p - lr * mean / (square.sqrt() + 1e-8)
    return p


@pytest.mark.parametrize("by_hand", [sgd, nesterov, rmsprop, adamw], ids=["sgd", "momentum", "rmsprop", "adamw"])
def test_two_steps_of_each_optimizer_are_those_of_its_paper(
    by_hand: Callable[..., Tensor], request: pytest.FixtureRequest
) -> None:
    """Weight decay acts on matrices alone; adamw's is decoupled from the gradient."""
    name = request.node.callspec.id
    for decay in (0.0, 0.3):
        net = trained(replace(PLAIN, optimizer=name, momentum=0.8, lr=0.05, weight_decay=decay), n_steps=2)
        close(net.weight, by_hand(torch.tensor(WEIGHT), lambda step: given_gradients(step)[0], 0.05, decay))
        close(net.bias, by_hand(torch.tensor(BIAS), lambda step: given_gradients(step)[1], 0.05, 0.0))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adamw"])
def test_biases_and_norm_scales_do_not_decay(optimizer: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3), nn.LayerNorm(3))
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    net.register_parameter("frozen", frozen)
    found = make_optimizer(net, Training(optimizer=optimizer, weight_decay=0.2))
    decays = {id(p): group["weight_decay"] for group in found.param_groups for p in group["params"]}
    shown = {name: decays.get(id(p)) for name, p in net.named_parameters()}
    matrices = {"0.weight": 0.2, "3.weight": 0.2}
    vectors = dict.fromkeys(["0.bias", "1.weight", "1.bias", "3.bias", "4.weight", "4.bias"], 0.0)
    assert shown == {"frozen": None, **matrices, **vectors}


@pytest.mark.parametrize(("field", "known"), [("optimizer", "sgd, momentum, rmsprop, adamw"), ("schedule", "cosine")])
def test_an_unknown_name_is_refused(field: str, known: str) -> None:
    training = replace(PLAIN, **{field: "nothing"})
    with pytest.raises(ValueError, match=f"'nothing'; they are .*{known}"):
        make_optimizer(affine(), training) if field == "optimizer" else lr_factor(training, 50, 100)


# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────

# steps 0, 9, 10, 55, 85, 99 and 100 of 100 with a tenth of warm-up: after it, 0, 0, 1/2, 5/6, 89/90 and all of the way
POINTS = (0, 4, 9, 10, 55, 85, 99, 100)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
        ("linear", (0.1, 0.5, 1.0, 1.0, 0.5, 1 / 6, 1 / 90, 1e-3)),
        ("cosine", (0.1, 0.5, 1.0, 1.0, 0.5, 0.0669872981, 1e-3, 1e-3)),
        ("step", (0.1, 0.5, 1.0, 1.0, 0.1, 0.01, 0.01, 0.01)),
    ],
)
def test_each_schedule_at_eight_points(schedule: str, expected: tuple[float, ...]) -> None:
    training = Training(schedule=schedule, warmup=0.1)
    assert [lr_factor(training, step, 100) for step in POINTS] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("step", "expected"), [(11, 1.0), (54, 1.0), (55, 0.1), (77, 0.1), (78, 0.01)])
def test_the_step_schedule_drops_at_half_and_at_three_quarters(step: int, expected: float) -> None:
    assert lr_factor(Training(schedule="step", warmup=0.1), step, 100) == expected


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    for schedule in ("constant", "linear", "cosine", "step"):
        assert lr_factor(Training(schedule=schedule, warmup=0.0), 0, 100) == 1.0
        assert lr_factor(Training(schedule=schedule, warmup=0.0), 0, 1) == 1.0  # a training of one step
    assert lr_factor(Training(schedule="linear", warmup=0.0), 50, 100) == pytest.approx(1 - 49 / 99)
    assert lr_factor(Training(schedule="cosine", warmup=1.0), 100, 100) == 1.0  # nothing is left after the warm-up


def test_the_schedule_runs_over_all_epochs_and_reaches_the_optimizer() -> None:
    """Three epochs of two steps: with a constant gradient the weight has moved by the sum of the rates."""

    class Constant(Planted):
        def loss(self, model: nn.Linear, batch: Batch) -> Tensor:
            return model.bias.sum() + 0 * model.weight.sum()

    training = replace(PLAIN, lr=0.2, schedule="linear", epochs=3)
    net = affine()
    state = fit(net, Constant(2), FitPlan(training, seed=0, until=3), TrainState())  # type: ignore[arg-type]
    rates = [1.0, 1.0, 0.8, 0.6, 0.4, 0.2]  # the first step is the warm-up's, which is never shorter
    close(net.bias, torch.tensor(BIAS) - 0.2 * sum(rates))
    assert [row["steps"] for row in state.numbers["curve"]] == [2, 2, 2]
    assert [row["epoch"] for row in state.numbers["curve"]] == [1, 2, 3]


# ── parts of a step ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_gradient_is_clipped_to_its_global_norm() -> None:
    weight, bias = given_gradients(0)
    norm = float(torch.cat([weight.flatten(), bias]).norm())
    for limit, factor in ((0.5, 0.5 / norm), (10.0, 1.0), (0.0, 1.0)):  # 0 clips nothing
        net = trained(replace(PLAIN, clip_norm=limit))
        close(net.weight, torch.tensor(WEIGHT) - 0.1 * factor * weight)
        close(net.bias, torch.tensor(BIAS) - 0.1 * factor * bias)


def test_l1_adds_the_sign_of_matrices_alone() -> None:
    net = trained(replace(PLAIN, l1=0.5))
    close(net.weight, torch.tensor(WEIGHT) - 0.1 * (given_gradients(0)[0] + 0.5 * torch.tensor(WEIGHT).sign()))
    close(net.bias, torch.tensor(BIAS) - 0.1 * given_gradients(0)[1])


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps() -> None:
    net, task = affine(), Planted(2)
    state = fit(net, task, FitPlan(PLAIN, seed=0, until=1), TrainState())  # type: ignore[arg-type]
    first, weight, bias = affine(), *given_gradients(0)
    losses = [float(Planted().loss(first, Batch((), torch.tensor(0))).detach())]
    with torch.no_grad():
        first.weight -= 0.1 * weight
        first.bias -= 0.1 * bias
    losses.append(float(Planted().loss(first, Batch((), torch.tensor(1))).detach()))
    assert state.numbers["curve"][0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_the_average_of_weights_follows_its_warmed_up_decay() -> None:
    """min(decay, (1 + t) / (10 + t)): 2/11 after the first step and 3/12 after the second; .2 where that is less."""
    for decay, kept in ((0.9, (2 / 11, 3 / 12)), (0.2, (2 / 11, 0.2))):
        p = average = torch.tensor(WEIGHT)
        for step in range(2):
            p = p - 0.1 * given_gradients(step)[0]
            average = kept[step] * average + (1 - kept[step]) * p
        net, task = affine(), Planted(2)
        plan = FitPlan(replace(PLAIN, ema=decay), seed=0, until=1)
        state = fit(net, task, plan, TrainState())  # type: ignore[arg-type]
        close(net.weight, average)
        close(state.tensors["weights.weight"], p)
        assert state.numbers["ema_updates"] == 2


class Scripted(Planted):
    """Its val metric is what the list says, epoch after epoch."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def preprocessor(self) -> nn.Module:
        return nn.Identity()

    postprocessor = preprocessor
    inputs = answers = ()

    def evaluate(self, predict: Any, split: str) -> Any:
        assert split == "val"
        return SimpleNamespace(scores=torch.tensor([next(self.values)]).numpy())


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([5.0, 4.0, 4.0, 4.5, 1.0], 2, 4, 2),  # an equal value is no better one
        ([5.0, 4.0, 4.5, 3.0, 3.5], 2, 5, 4),
        ([float("nan"), 4.0, 3.0, 9.0, 9.0], 3, 5, 3),
        ([5.0, 6.0], 1, 2, 1),
    ],
)
def test_patience_counts_epochs_without_a_better_val_metric(
    values: list[float], patience: int, epochs: int, best: int
) -> None:
    net, training = affine(), replace(PLAIN, epochs=len(values), patience=patience)
    state = fit(net, Scripted(values), FitPlan(training, seed=0, until=len(values)), TrainState())  # type: ignore[arg-type]
    assert len(state.numbers["curve"]) == state.epoch == epochs
    assert state.numbers["best_epoch"] == best and state.numbers["best"] == values[best - 1]
    assert state.numbers["stopped_by"] == ("patience" if epochs - best >= patience else None)
    close(net.weight, torch.tensor(WEIGHT) - 0.1 * best * given_gradients(0)[0])


def test_without_validation_nothing_is_evaluated() -> None:
    state = fit(affine(), Scripted([]), FitPlan(PLAIN, seed=0, until=1), TrainState())  # type: ignore[arg-type]
    assert "val" not in state.numbers["curve"][0]
    plan = FitPlan(PLAIN, seed=0, until=1, validate=True)
    assert fit(affine(), Scripted([2.0]), plan, TrainState()).numbers["curve"][0]["val"] == 2.0  # type: ignore[arg-type]


def test_a_training_that_has_stopped_is_not_gone_on_with() -> None:
    training = replace(PLAIN, epochs=5, patience=1)
    plan = FitPlan(training, seed=0, until=5)
    state = fit(affine(), Scripted([1.0, 2.0]), plan, TrainState())  # type: ignore[arg-type]
    again = fit(affine(), Scripted([]), plan, state)  # type: ignore[arg-type]
    assert again.epoch == state.epoch == 2 and again.numbers["stopped_by"] == "patience"


def test_the_default_deadline_never_comes() -> None:
    assert fit(affine(), Planted(), FitPlan(PLAIN, 0, 1), TrainState()).numbers["stopped_by"] is None  # type: ignore[arg-type]


def test_the_network_is_left_in_eval_mode_and_trained_in_train_mode() -> None:
    modes: list[bool] = []

    class Watching(Planted):
        def loss(self, model: nn.Linear, batch: Batch) -> Tensor:
            modes.append(model.training)
            return super().loss(model, batch)

    net = affine().eval()
    fit(net, Watching(2), FitPlan(PLAIN, seed=0, until=1), TrainState())  # type: ignore[arg-type]
    assert modes == [True, True] and not net.training
