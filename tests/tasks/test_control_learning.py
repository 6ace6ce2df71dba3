"""Agents learn, go on bit for bit, keep their best network and are distilled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from control_agents import DQN, corridor_task, predictor, small
from torch import nn

from searchkit.core.errors import Infeasible
from searchkit.core.space_file import load_space
from searchkit.core.state import decode_state, encode_state
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.tasks import registry
from searchkit.tasks.rl.control import ControlTask
from searchkit.tasks.rl.replay import DISCOUNT, REPLAYED


@pytest.fixture(scope="module")
def corridor() -> ControlTask:
    return corridor_task()


@pytest.fixture(scope="module")
def cart() -> ControlTask:
    return registry.load({"task": "CartPole-v1"})


@pytest.mark.parametrize("point", ["q-learning", "sarsa"])
def test_a_table_learns_the_values_of_the_corridor(corridor: ControlTask, point: str) -> None:
    net = DQN.build(DQN.points[point], corridor.spec)
    training = Training(lr=0.1, epochs=16, batch_size=64, weight_decay=0.0)
    corridor.fit(net, FitPlan(training, seed=0, until=16), TrainState())
    answers = predictor(corridor, net)({"observation": np.arange(5)})["action_values"]
    optimal = DISCOUNT ** np.arange(4, -1, -1)
    assert answers.argmax(1).tolist() == [1] * 5
    if point == "q-learning":
        np.testing.assert_allclose(answers[:, 1], optimal, atol=0.03)
    else:  # of what is done, which now and then goes left
        assert (answers[:, 1] < optimal + 0.02).all() and (np.diff(answers[:, 1]) > -0.02).all()
    evaluation = corridor.evaluate(predictor(corridor, net), "test")
    assert evaluation.metrics["mean_return"] == 1.0 and evaluation.metrics["mean_steps"] <= 5


def test_a_table_crosses_the_frozen_lake() -> None:
    lake = registry.load({"task": "FrozenLake-v1"})
    net = DQN.build(DQN.points["q-learning"], lake.spec)
    before = lake.evaluate(predictor(lake, net), "val").metrics["mean_return"]
    lake.fit(net, FitPlan(Training(lr=0.05, epochs=20, weight_decay=0.0), seed=0, until=20), TrainState())
    evaluation = lake.evaluate(predictor(lake, net), "test")
    assert before < 0.1 and evaluation.metrics["mean_return"] > 0.5
    assert set(evaluation.scores) == {0.0, 1.0}


def test_how_the_state_after_is_valued() -> None:
    own, target = torch.tensor([[1.0, 5.0], [3.0, 0.0]]), torch.tensor([[7.0, 2.0], [4.0, 6.0]])
    spec, taken = registry.load({"task": "gymnasium:Corridor-v0"}).spec, torch.tensor([1, 1])

    def found(backup: str) -> list[float]:
        net = DQN.build(DQN.arch(widths=(8,), backup=backup), spec)
        return list(net.bootstrap(own, target, taken).tolist())  # type: ignore[operator]

    assert (found("max"), found("double"), found("sarsa")) == ([7.0, 6.0], [2.0, 4.0], [2.0, 6.0])


def test_a_duelling_network_has_one_value_and_gains_without_a_mean(cart: ControlTask) -> None:
    net = small(cart, duelling=True)
    x = torch.randn(32, 4)
    value = net.value(net.body(x))  # type: ignore[operator]
    torch.testing.assert_close(net(x).mean(1, keepdim=True), value)
    with pytest.raises(Infeasible, match="a table has no hidden layer"):
        DQN.build(DQN.arch(widths=(), duelling=True), cart.spec)


def test_other_families_play_too_and_this_one_does_nothing_else(cart: ControlTask) -> None:
    mlp = load_space(Path(__file__).parents[2] / "spaces" / "mlp.py")
    assert mlp.accepts(cart.spec) is None
    net = mlp.build(mlp.arch(widths=(16,), batch_norm=True, dropout=0.1), cart.spec)
    training = Training(epochs=1, batch_size=512, ema=0.9, mixup=0.2)
    state = cart.fit(net, FitPlan(training, seed=0, until=1), TrainState())
    assert np.isfinite(state.numbers["curve"][0]["val"])
    reason = DQN.accepts(registry.load({"task": "iris"}).spec)
    assert reason is not None and "CartPole-v1" in reason


def same(a: TrainState, b: TrainState) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_a_training_goes_on_bit_for_bit(cart: ControlTask) -> None:
    training = Training(epochs=20, batch_size=512, ema=0.9)

    def through(*stops: int) -> tuple[nn.Module, TrainState]:
        net, state = small(cart), TrainState()
        for until in stops:
            net = small(cart, seed=until)  # another process has another network until the state is there
            if state.epoch == 0:
                net = small(cart)
            state = decode_state(encode_state(cart.fit(net, FitPlan(training, seed=3, until=until), state)))
        return net, state

    (one, whole), (two, parts) = through(7), through(2, 3, 7)
    assert whole.epoch == parts.epoch == 7 and same(whole, parts)
    assert whole.numbers["play"] == parts.numbers["play"] and whole.numbers["best"] == parts.numbers["best"]
    assert [row.get("val") for row in whole.numbers["curve"]] == [row.get("val") for row in parts.numbers["curve"]]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    played, drawn = whole.numbers["play"]["filled"] - cart.n_examples("train"), 7 * cart.n_examples("train")
    assert (
        drawn / REPLAYED - 100 < played < drawn / REPLAYED
    )  # what each of 8 players still waits with, and what limits cut off


def test_the_best_network_of_a_training_is_kept(cart: ControlTask) -> None:
    net = small(cart)
    training = Training(epochs=6, batch_size=256, lr=3e-3)
    state = cart.fit(net, FitPlan(training, seed=0, until=6), TrainState())
    values = [row["val"] for row in state.numbers["curve"]]
    assert len(values) == 6 and state.numbers["best"] == max(values)
    assert cart.evaluate(predictor(cart, net), "val").metrics["mean_return"] == max(values)


def test_a_recovery_explores_little(cart: ControlTask) -> None:
    from searchkit.tasks.rl.replay import ReplayTraining

    plain, recovery = (FitPlan(Training(epochs=40), 0, 40, recovers=flag) for flag in (False, True))
    first, later = (
        ReplayTraining(cart, small(cart), plain, TrainState()),
        ReplayTraining(cart, small(cart), recovery, TrainState()),
    )
    assert [first.chance(epoch) for epoch in (0, 5, 10, 40)] == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert later.chance(0) == 0.05


def test_match_is_nought_for_equals_and_blind_to_the_scale_of_rewards(cart: ControlTask) -> None:
    batch = next(cart.batches("train", Training(), seed=0, device="cpu"))
    teacher, student = small(cart), small(cart, seed=1)
    assert cart.distillation_loss(teacher, teacher, batch, temperature=2.0).item() == pytest.approx(0, abs=1e-6)
    apart = cart.distillation_loss(student, teacher, batch, temperature=2.0)
    apart.backward()
    assert apart.item() > 1e-3 and all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())

    class Times100(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = 100 * self.net(x)
            return out

    scaled = cart.distillation_loss(Times100(student), Times100(teacher), batch, temperature=2.0)
    torch.testing.assert_close(scaled, apart, rtol=1e-3, atol=1e-5)
