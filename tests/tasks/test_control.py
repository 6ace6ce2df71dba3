"""Environments by name, and the scores of agents that play them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from control_agents import predictor, small

from searchkit.core.errors import BadInput, NotInstalled
from searchkit.core.goal import Evaluation, Goal, Tolerance
from searchkit.evaluation.statistics import agreement
from searchkit.onnx.predictor import Deployed
from searchkit.tasks import registry
from searchkit.tasks.predictions import ACTIONS
from searchkit.tasks.rl.control import ControlTask, best_actions
from searchkit.tasks.rl.environments import Environment, ExplorationPolicy

gymnasium = pytest.importorskip("gymnasium", reason="it plays the environments; pip install 'searchkit[control]'")


@pytest.fixture(scope="module")
def cart() -> ControlTask:
    return registry.load({"task": "CartPole-v1"})


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
