"""What is logged of an environment, and what is replayed of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from control_agents import corridor_task

from searchkit.core.training import Training
from searchkit.tasks import registry
from searchkit.tasks.rl.control import EPISODES, ControlTask
from searchkit.tasks.rl.environments import Environment, ExplorationPolicy
from searchkit.tasks.rl.replay import DISCOUNT, TRAINING_SEEDS, Player, Replay


@pytest.fixture(scope="module")
def corridor() -> ControlTask:
    return corridor_task()


@pytest.fixture(scope="module")
def cart() -> ControlTask:
    return registry.load({"task": "CartPole-v1"})


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
