"""Environments by name, what is logged and replayed of them, and an agent from its training to its bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput, Infeasible, NotInstalled
from searchkit.core.goal import Evaluation, Goal, Tolerance
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.state import decode_state, encode_state
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.evaluation.statistics import agreement
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.run import Run
from searchkit.stages.export import Export
from searchkit.stages.promote import Promote
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry
from searchkit.tasks.predictions import ACTIONS
from searchkit.tasks.rl.control import EPISODES, ControlTask, best_actions
from searchkit.tasks.rl.environments import Environment, ExplorationPolicy
from searchkit.tasks.rl.replay import DISCOUNT, REPLAYED, TRAINING_SEEDS, Player, Replay

gymnasium = pytest.importorskip("gymnasium", reason="it plays the environments; pip install 'searchkit[control]'")

DQN = load_space(Path(__file__).parents[2] / "spaces" / "dqn.py")


class Corridor(gymnasium.Env):
    """Six states in a row, numbered from 10; action 5 goes left and 6 right; the last state pays 1 and ends."""

    observation_space = gymnasium.spaces.Discrete(6, start=10)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(3))
        return 10 + self.at, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.at = max(0, self.at + (1 if action == 6 else -1))
        return 10 + self.at, float(self.at == 5), self.at == 5, False, {}


class Pair(Corridor):
    """As the corridor, and shows two things at once."""

    observation_space = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(6), gymnasium.spaces.Box(0, 1, (2,))))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return (self.at, np.ones(2, np.float32)), {}

    def step(self, action: int) -> Any:
        _, reward, ended, _, _ = super().step(action)
        return (self.at, np.ones(2, np.float32)), reward, ended, False, {}


class Continuous(Corridor):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))


class Crowded(Corridor):
    action_space = gymnasium.spaces.Discrete(100_000)


class Growing(Corridor):
    observation_space = gymnasium.spaces.Sequence(gymnasium.spaces.Box(0, 1, (2,)))


for kind in (Corridor, Pair, Continuous, Crowded, Growing):
    gymnasium.register(id=f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=20)
gymnasium.register(id="Endless-v0", entry_point=Corridor)


@pytest.fixture(scope="module")
def corridor() -> ControlTask:
    return registry.load({"task": "gymnasium:Corridor-v0"})


@pytest.fixture(scope="module")
def cart() -> ControlTask:
    return registry.load({"task": "CartPole-v1"})


def predictor(task: ControlTask, net: nn.Module) -> TorchPredictor:
    return TorchPredictor(Deployed(task.preprocessor(), net, task.postprocessor()).eval(), task.inputs, task.answers)


def small(task: ControlTask, seed: int = 0, **arch: Any) -> nn.Module:
    torch.manual_seed(seed)
    return DQN.build(DQN.arch(**{"widths": (16, 16), **arch}), task.spec)


# ── Environments ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_environment_says_of_itself() -> None:
    cart, lake, corridor = (Environment(id).about for id in ("CartPole-v1", "FrozenLake-v1", "Corridor-v0"))
    assert (cart.features, cart.n_states, cart.n_actions, cart.max_steps, cart.threshold) == (4, 0, 2, 500, 475.0)
    assert (lake.n_states, lake.n_actions, lake.shape, lake.dtype) == (16, 4, (), "int64")
    assert (corridor.first_action, corridor.max_steps, corridor.threshold) == (5, 20, None)


def test_states_and_actions_count_from_nought_whatever_the_environment_calls_them() -> None:
    env = Environment("Corridor-v0")
    start = int(env.reset(seed=3))
    assert start in (0, 1, 2)
    assert int(env.step(1)[0]) == start + 1 and int(env.step(0)[0]) == start


def test_several_things_shown_at_once_are_one_vector() -> None:
    env = Environment("Pair-v0")
    seen = env.reset(seed=0)
    assert seen.dtype == np.float32 and env.about.shape == (8,) and seen.shape == (8,)
    assert seen[:6].sum() == 1 and seen[6:].tolist() == [1, 1]


def test_an_environment_without_a_limit_of_steps_is_given_one() -> None:
    env = Environment("Endless-v0")
    env.reset(seed=0)
    outcomes = [env.step(0) for _ in range(env.about.max_steps)]
    assert env.about.max_steps == 1000 and not any(cut for _, _, _, cut in outcomes[:-1])
    assert outcomes[-1][2:] == (False, True)


def test_an_episode_is_its_seed() -> None:
    for id in ("CartPole-v1", "FrozenLake-v1"):
        wanderers = [ExplorationPolicy(Environment(id), 1) for _ in range(2)]
        first, again = (wanderer.episode(7) for wanderer in wanderers)
        assert np.array_equal(first.observations, again.observations) and np.array_equal(first.actions, again.actions)
        assert any(not np.array_equal(first.actions, wanderers[0].episode(seed).actions) for seed in (8, 9, 10))


BAD = {
    "unknown": ({"task": "gymnasium:CartPol-v1"}, "gymnasium has no environment 'CartPol-v1'.*CartPole.*with its vers"),
    "version": ({"task": "gymnasium:CartPole-v9"}, "no environment 'CartPole-v9'.*v0.*v1"),
    "nameless": ({"task": "gymnasium:"}, "no environment ''"),
    "no module": ({"task": "gymnasium:nowhere:Cart-v0"}, "No module named 'nowhere'"),
    "continuous": ({"task": "gymnasium:Continuous-v0"}, r"takes actions from Box\(.*discrete actions, such as Cart"),
    "pendulum": ({"task": "gymnasium:Pendulum-v1"}, "'Pendulum-v1' takes actions from Box.*discrete actions"),
    "crowded": ({"task": "gymnasium:Crowded-v0"}, "has 100,000 actions.*at most 4,096"),
    "growing": ({"task": "gymnasium:Growing-v0"}, "differs in size from step to step"),
    "kind": ({"task": "CartPole-v1", "kind": "regression"}, "--problem 'regression' is for data.*leave it out"),
    "modality": ({"task": "CartPole-v1", "modality": "image"}, "--modality 'image' is for data.*leave it out"),
    "no scheme": ({"task": "Acrobot-v1"}, "No task named 'Acrobot-v1'.*gymnasium:NAME among them"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_played_is_one_sentence(case: str) -> None:
    source, says = BAD[case]
    with pytest.raises(BadInput, match=says) as raised:
        registry.load(source)
    assert "\n" not in str(raised.value)


def test_without_gymnasium_the_task_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(NotInstalled, match=r"not installed; pip install 'searchkit\[control\]'"):
        registry.load({"task": "CartPole-v1"})
    assert {"CartPole-v1", "FrozenLake-v1"} <= set(registry.names()) and "gymnasium" in registry.schemes()


# ── The log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_log_is_of_whole_transitions(corridor: ControlTask) -> None:
    log = corridor.log
    n = corridor.n_examples("train")
    assert {len(values) for values in log.values()} == {n}
    step = np.where(log["action"] == 1, 1, -1)
    assert np.array_equal(log["next"], np.clip(log["observation"] + step, 0, 5))
    assert np.array_equal(log["terminal"], log["next"] == 5) and np.array_equal(log["reward"], log["next"] == 5)
    follows = ~log["terminal"][:-1] & (log["next"][:-1] == log["observation"][1:])
    same = log["next_action"][:-1] == log["action"][1:]
    assert same[follows].mean() > 0.9  # where an episode was cut off, another may begin in the same state
    assert np.array_equal(corridor.raw("train")["observation"], log["observation"])


def test_values_are_discounted_rewards_and_none_stands_for_more_than_it_saw(corridor: ControlTask) -> None:
    episode = next(e for e in map(ExplorationPolicy(Environment("Corridor-v0"), 0).episode, range(99)) if e.terminated)
    far = len(episode.actions) - 1
    assert episode.values(DISCOUNT)[0] == pytest.approx(DISCOUNT**far)
    batches = list(corridor.batches("train", Training(batch_size=512), seed=0, device="cpu"))
    values = torch.cat([batch.target[:, 1] for batch in batches]) * corridor.unit
    assert float(values.max()) == pytest.approx(1.0) and float(values.min()) == 0.0


def test_splits_are_episodes_apart_and_training_plays_others(cart: ControlTask) -> None:
    val, test = cart.seeds("val"), cart.seeds("test")
    assert len(set(val) | set(test)) == EPISODES["val"] + EPISODES["test"] == len(val) + len(test)
    assert max(*val, *test) < TRAINING_SEEDS
    player = Player(Environment("CartPole-v1"), 0, 5)
    taken: list[int] = []
    player.environment = SimpleNamespace(reset=lambda seed: taken.append(seed))  # type: ignore[assignment]
    for player.number in range(50):
        player.begin()
    assert len(set(taken)) == 50 and min(taken) >= TRAINING_SEEDS
    other = registry.load({"task": "CartPole-v1", "split_seed": 1})
    assert not set(other.seeds("test")) & set(test) and other.fingerprint != cart.fingerprint
    assert registry.load({"task": "CartPole-v1"}).fingerprint == cart.fingerprint


def test_a_task_survives_packing_as_plain_data(cart: ControlTask) -> None:
    config, arrays = cart.pack()
    other = registry.unpack(json.loads(json.dumps(config)), {name: values.copy() for name, values in arrays.items()})
    assert (other.spec, other.goal, other.inputs, other.unit) == (cart.spec, cart.goal, cart.inputs, cart.unit)
    assert other.fingerprint == cart.fingerprint and other.about == cart.about


def test_a_feature_is_seen_in_the_unit_that_random_actions_move_it_by(cart: ControlTask) -> None:
    seen = cart.raw("train")["observation"]
    scaled = cart.preprocessor()(torch.from_numpy(seen))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    deviations = scaled.std(0).tolist()
    assert all(0.99 < deviation < 10.01 for deviation in deviations)
    # a pole falls before the cart is far, and what plays well drifts: the place is seen in finer steps than the rest
    assert deviations[0] > 1.5 and deviations[0] == max(deviations)


def test_a_summary_in_words(cart: ControlTask) -> None:
    from searchkit.data.summary import describe

    told = describe(json.loads(json.dumps(cart.summary())))
    assert told["predicts"] == "the value of each action, of which the best is taken"
    assert "train 8,192, val 50, test 100" in told["rows"] and told["metric"] == "mean return"


# ── Replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def a_log(n: int) -> dict[str, np.ndarray]:
    return {"observation": np.arange(n, dtype=np.float32)[:, None], "action": np.arange(n)}


def test_the_newest_transition_takes_the_place_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchkit.tasks.rl.replay.CAPACITY", 5)
    replay = Replay(a_log(3))
    generator = np.random.default_rng(0)
    assert set(replay.draw(generator, 200)["action"]) == {0, 1, 2}
    for number in range(3, 9):
        replay.add(observation=np.array([number], np.float32), action=number)
    drawn = replay.draw(generator, 200)
    assert set(drawn["action"]) == {4, 5, 6, 7, 8} and np.array_equal(drawn["observation"][:, 0], drawn["action"])


def test_large_observations_are_kept_in_smaller_numbers() -> None:
    big = {"observation": np.zeros((2, 2**20), np.float32), "action": np.zeros(2, np.int64)}
    assert Replay(big).capacity == 15  # 64 MiB of 4 MiB and 8 bytes
    assert Replay(a_log(3)).capacity == 50_000


def test_a_player_hands_on_transitions_once_the_next_action_is_known(corridor: ControlTask) -> None:
    replay = Replay(corridor.log)
    replay.filled = replay.at = 0
    player = Player(Environment("Corridor-v0"), 0, 1)
    player.begin()
    start = int(player.observation)
    for _ in range(5 - start):
        player.act(1, replay)
    assert replay.filled == 5 - start and player.number == 1 and player.waiting is None
    last = {name: values[replay.filled - 1] for name, values in replay.fields.items()}
    assert last["terminal"] and last["reward"] == 1 and last["next"] == 5
    assert replay.fields["next_action"][: replay.filled - 1].tolist() == [1] * (4 - start)
    before = replay.filled
    for _ in range(20):
        player.act(0, replay)  # to the left, until the limit cuts it off
    assert player.number == 2 and replay.filled == before + 19 and not replay.fields["terminal"][before:][:19].any()


def test_a_player_is_put_where_it_stood() -> None:
    for id in ("CartPole-v1", "FrozenLake-v1"):
        one, other = (Player(Environment(id), 2, 9) for _ in range(2))
        one.begin()
        for step in range(45):
            one.act(step % 2, None)
        other.again(one.number, list(one.actions))
        for step in range(30):
            assert np.array_equal(one.observation, other.observation) and one.number == other.number
            one.act(step % 2, None)
            other.act(step % 2, None)


# ── Learning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_are_the_returns_of_single_episodes(cart: ControlTask) -> None:
    net = small(cart, seed=2)
    evaluation = cart.evaluate(predictor(cart, net), "test")
    env = gymnasium.make("CartPole-v1")
    deployed = Deployed(cart.preprocessor(), net, cart.postprocessor()).eval()
    for number, seed in list(enumerate(cart.seeds("test")))[::25]:
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            with torch.no_grad():
                action = int(deployed(torch.from_numpy(observation)[None]).argmax())
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        assert evaluation.scores[number] == total
    assert len(evaluation.scores) == len(evaluation.decisions) == cart.n_examples("test") == 100
    again = cart.evaluate(predictor(cart, net), "test")
    assert np.array_equal(again.scores, evaluation.scores)


def test_an_answer_that_is_no_number_is_no_decision_and_is_played_all_the_same(cart: ControlTask) -> None:
    evaluation = cart.evaluate(
        lambda x: {"action_values": np.full((len(x["observation"]), 2), np.nan, np.float32)}, "val"
    )
    assert set(evaluation.decisions) == {-1} and evaluation.metrics["mean_return"] < 15
    assert best_actions(np.array([[np.nan, -5.0], [1.0, np.inf]])).tolist() == [1, 0]


def test_agents_agree_where_they_take_the_same_action_and_their_returns_are_drawn() -> None:
    a = Evaluation({}, np.array([500.0, 20.0, 31.0]), np.array([0, 1, 1]), np.zeros(0))
    found = agreement(a.decisions, np.array([0, 1, 0]), ACTIONS, targets=a.targets)
    assert found.value == pytest.approx(2 / 3) and sum(ACTIONS.errors(a, {})["histogram"]) == 3


def test_a_tolerated_drop_is_a_share_of_the_span(cart: ControlTask) -> None:
    assert cart.goal.span == pytest.approx(475 - 30, abs=25)  # wanderers make some 30
    goal = Goal("mean_return", "maximize", span=450.0)
    tolerance = Tolerance(goal, max_drop=0.01)
    assert tolerance.shown == "4.5"
    assert tolerance.admits(495.6, 500.0) and not tolerance.admits(495.4, 500.0)
    assert not Tolerance(Goal("accuracy", "maximize"), max_drop=0.01).admits(0.94, 0.96)


# ── The bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shipped(cart: ControlTask, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small agent after a little training, in int8, in its bundle."""
    run = Run.create(tmp_path_factory.mktemp("runs"), "agent", {})
    ctx = Context(run, cart, lambda name: DQN, echo=lambda text: None)
    arch = DQN.arch(widths=(32, 32))
    torch.manual_seed(0)
    net, training = DQN.build(arch, cart.spec), Training(epochs=8, batch_size=128, lr=2e-3, weight_decay=0.0)
    cart.fit(net, FitPlan(training, seed=0, until=8), TrainState())
    draft = Artifact("trial", "dqn", freeze(arch), freeze(training), (), {"stage": "Trial", "number": 0}, None)
    trial = run.save(draft, weights=net.state_dict(), log=[])
    quantized = Quantize(max_drop=1.0)(Promote()(trial, ctx), ctx)
    return SimpleNamespace(ctx=ctx, exported=Export()(quantized, ctx), bundle=run.bundle)


def python(script: Path, *arguments: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [*([str(first)] if first else []), *(path for path in sys.path if path)]
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, timeout=300,
    )  # fmt: skip


def test_the_bundle_plays_the_episodes_that_were_scored(cart: ControlTask, shipped: SimpleNamespace) -> None:
    done = python(shipped.bundle / "run.py", "--json")
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    scores = cart.evaluate(OnnxPredictor(shipped.bundle / "model.onnx"), "test").scores
    assert played["environment"] == "CartPole-v1" and played["returns"] == scores.tolist() and len(scores) == 100
    wrong = python(shipped.bundle / "run.py", "--episodes", "0")
    assert wrong.returncode == 2 and "from 1 to 100" in wrong.stderr


def test_the_bundle_verifies_and_shows_values_without_gymnasium(shipped: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "gymnasium.py").write_text("raise ModuleNotFoundError('it is not here')\n")
    done = python(shipped.bundle / "verify.py", first=tmp_path)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("verified"), done.stdout + done.stderr
    shown = python(shipped.bundle / "run.py", first=tmp_path)
    assert shown.returncode == 0 and shown.stdout.count("take ") == 8, shown.stderr
    assert "CartPole-v1 is played where gymnasium is installed" in shown.stdout


@pytest.fixture
def flags() -> Callable[..., list[str]]:
    return lambda *words: ["searchkit", "search", "--space", "dqn", *words]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--task", "gymnasium:Pendulum-v1"), "takes actions from Box"),
        (("--task", "gymnasium:Nowhere-v1"), "gymnasium has no environment 'Nowhere-v1'"),
        (("--task", "iris"), "The space 'dqn' is not for the task 'iris': it needs an environment"),
    ],
)
def test_the_command_line_refuses_in_a_sentence(
    flags: Callable[..., list[str]],
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from searchkit.cli import app as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", flags(*words))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("searchkit: ") and says in told and told.count("\n") == 1
    assert not (tmp_path / "runs").exists()
