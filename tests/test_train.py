"""The loop: what is stopped and goes on equals what never stopped, and every optimizer and schedule learns."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, Teacher, Training, TrainState
from searchkit.tasks import registry
from searchkit.train import Diverged, distillation, fit, lr_factor, validation

TRAINING = Training(lr=3e-3, batch_size=64, epochs=4)


@pytest.fixture(scope="module")
def digits() -> Task:
    return registry.load({"task": "digits"})


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
    )


def pictures(seed: int = 0) -> nn.Module:
    """A dense convolution with several input channels: its memory layout differs under channels_last."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "rmsprop"])
def test_a_rung_under_channels_last_goes_on_bit_for_bit(digits: Task, optimizer: str) -> None:
    plan = FitPlan(training=replace(TRAINING, optimizer=optimizer), seed=5, until=3, channels_last=True)
    expected = fit(pictures(), digits, plan, TrainState())
    state = fit(pictures(), digits, replace(plan, until=1), TrainState())
    stored = TrainState(state.epoch, {k: v.contiguous() for k, v in state.tensors.items()}, state.numbers)
    state = fit(pictures(seed=1), digits, plan, stored)
    assert all(torch.equal(value, state.tensors[name]) for name, value in expected.tensors.items())


def tensors_of(state: TrainState, prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9},
        {"optimizer": "momentum", "lr": 0.05},
        {"optimizer": "rmsprop"},
        {"mixup": 0.2},
        {"patience": 3},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_training_that_stopped_goes_on_bit_for_bit(digits: Task, changes: dict[str, object]) -> None:
    plan = FitPlan(training=replace(TRAINING, **changes), seed=5, until=4, validate=True)
    straight = network()
    expected = fit(straight, digits, plan, TrainState())
    state, broken = TrainState(), network()
    for until in (1, 3, 4):
        state = fit(broken, digits, replace(plan, until=until), state)
        broken = network(seed=until)  # another process starts from another network: the state holds everything
    resumed = network()
    fit(resumed, digits, plan, state)
    assert state.epoch == 4
    assert tensors_of(state, "").keys() == tensors_of(expected, "").keys()
    assert all(torch.equal(value, state.tensors[name]) for name, value in expected.tensors.items())
    losses = [(row["loss"], row["val"]) for row in state.numbers["curve"]]
    assert losses == [(row["loss"], row["val"]) for row in expected.numbers["curve"]]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("sgd", 0.1), ("momentum", 0.05), ("rmsprop", 2e-3), ("adamw", 3e-3)], ids=lambda v: str(v)
)
def test_every_optimizer_learns(digits: Task, optimizer: str, lr: float) -> None:
    model = network()
    training = replace(TRAINING, optimizer=optimizer, lr=lr, epochs=6)
    fit(model, digits, FitPlan(training=training, seed=0, until=6), TrainState())
    assert validation(model, digits, "cpu") > 0.85


def test_the_seed_decides_everything(digits: Task) -> None:
    def weights(seed: int) -> Tensor:
        model = network()
        return fit(model, digits, FitPlan(training=TRAINING, seed=seed, until=1), TrainState()).tensors[
            "weights.1.weight"
        ]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("schedule", "warmup"), list(product(("constant", "cosine", "linear", "step"), (0.0, 0.1))))
def test_a_schedule_is_a_share_of_the_peak_that_never_reaches_nothing(schedule: str, warmup: float) -> None:
    training = Training(schedule=schedule, warmup=warmup)
    factors = [lr_factor(training, step, 100) for step in range(100)]
    assert all(0 < f <= 1 for f in factors) and max(factors) == 1
    assert factors[-1] <= factors[50]
    if schedule == "cosine":
        assert factors[-1] < 0.01


def test_a_loss_that_is_not_finite_is_named(digits: Task) -> None:
    plan = FitPlan(training=replace(TRAINING, optimizer="sgd", lr=1e30, clip_norm=0.0), seed=0, until=2)
    with pytest.raises(Diverged, match=r"the training loss became nan in epoch 1 \(learning rate 1e\+30\)"):
        fit(network(), digits, plan, TrainState())


def test_time_that_is_up_ends_it_at_the_next_step(digits: Task) -> None:
    state = fit(network(), digits, FitPlan(training=TRAINING, seed=0, until=4, seconds=0.0), TrainState())
    assert state.epoch == 1 and state.numbers["stopped_by"] == "time"


def test_patience_gives_back_the_best_epoch(digits: Task) -> None:
    training = replace(TRAINING, epochs=30, patience=2, optimizer="sgd", lr=1.0, clip_norm=0.0, schedule="constant")
    model = network()
    state = fit(model, digits, FitPlan(training=training, seed=0, until=30), TrainState())
    values = [row["val"] for row in state.numbers["curve"]]
    assert state.numbers["stopped_by"] == "patience" and len(values) < 30
    assert validation(model, digits, "cpu") == pytest.approx(max(values))


def test_the_average_is_smoother_than_the_last_step(digits: Task) -> None:
    model = network()
    plan = FitPlan(training=replace(TRAINING, ema=0.98), seed=0, until=2)
    state = fit(model, digits, plan, TrainState())
    kept = dict(model.state_dict())
    assert all(torch.equal(kept[name[4:]], value) for name, value in tensors_of(state, "ema.").items())
    assert not torch.equal(kept["1.weight"], state.tensors["weights.1.weight"])


def test_l1_makes_weights_smaller(digits: Task) -> None:
    def total(l1: float) -> float:
        model = network()
        fit(model, digits, FitPlan(training=replace(TRAINING, l1=l1), seed=0, until=4), TrainState())
        return sum(float(p.detach().abs().sum()) for p in model.parameters() if p.ndim > 1)

    assert total(1e-2) < 0.7 * total(0.0)


def test_distillation_runs_the_student_once_and_pulls_it_to_the_teacher(digits: Task) -> None:
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(1)

        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return self.inner(x)

    teacher, student = network(2).eval(), Counting()
    batch: Batch = next(iter(digits.batches("val", TRAINING, seed=0, device="cpu")))
    loss = distillation(digits, Teacher(teacher), "cpu")
    loss(student, batch).backward()
    assert len(calls) == 1
    with torch.no_grad():
        assert float(digits.distillation_loss(teacher, teacher, batch, temperature=2.0)) == pytest.approx(0.0, abs=1e-5)
        assert float(loss(teacher, batch)) == pytest.approx(0.5 * float(digits.loss(teacher, batch)), rel=1e-4)
