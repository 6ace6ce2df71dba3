"""Q-learning with replay: the batches of a training whose examples are what its own network plays.

Deep Q-networks (Mnih et al. 2015, Nature 518): transitions of many episodes are kept and drawn at random, and the
values that they are to have come from an older copy of the network, the target. How the state after is valued is the
network's to say (types.Bootstraps): the largest value (Watkins & Dayan 1992), double (van Hasselt et al. 2016,
arXiv:1509.06461), or that of the action taken there (SARSA: Rummery & Niranjan 1994). With a table for a network it is
the tabular method.

The optimizer steps are those of `train.fit`; here is what it trains on. All of it goes on bit for bit from a
TrainState: what is drawn depends on (seed, epoch) alone, and an environment is put where it stood by its seed and its
actions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, Split
from searchkit.core.network import HasBootstrapValue
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.state import snapshot, with_prefix
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.tasks.rl.environments import Environment, EnvSpec

DISCOUNT = 0.99

REPLAYED = 64
"""Times that a transition is drawn on average: so many examples are trained on for each that is played."""

PLAYERS = 8
"""Environments that are played at once: the network is asked for all of them in one batch."""

CAPACITY = 50_000
"""Transitions that are kept; of large observations fewer."""

CAPACITY_BYTES = 64 * 2**20

RENEWED = 100
"""Optimizer steps after which the target is the network anew. Measured on CartPole-v1, 12,000 steps, two seeds, the
best of 20 checks and the last: with this 497 and 306, 500 and 497; following by .01 at each step 278 and 170, 500 and
124."""

EXPLORE = 0.25
"""Of a training, in which the share of random actions falls from all to LEAST_RANDOM."""

LEAST_RANDOM = 0.05

TRAINING_SEEDS = 2**30
"""Episodes of training have seeds from here on; those of val and test lie below."""


class Replay:
    """The last transitions, the newest in the place of the oldest. fields, by name, (capacity, …): observation, action,
    reward, next, terminal, next_action; the last is the action that was taken in the state after.
    """

    def __init__(self, log: Arrays) -> None:
        """log: where to begin from, the same fields, at most as many as there is room for."""
        row = sum(values[:1].nbytes for values in log.values())
        n = len(log["action"])
        self.capacity = max(n, min(CAPACITY, CAPACITY_BYTES // row))
        self.fields = {name: np.zeros((self.capacity, *values.shape[1:]), values.dtype) for name, values in log.items()}
        for name, values in log.items():
            self.fields[name][:n] = values
        self.filled, self.at = n, n % self.capacity

    def add(self, **row: np.ndarray | float | int | bool) -> None:
        for name, value in row.items():
            self.fields[name][self.at] = value
        self.at = (self.at + 1) % self.capacity
        self.filled = min(self.filled + 1, self.capacity)

    def draw(self, generator: np.random.Generator, n: int) -> Arrays:
        rows = generator.integers(0, self.filled, n)
        return {name: values[rows] for name, values in self.fields.items()}


@dataclass
class Player:
    """An environment in the middle of an episode. number: of the episode. waiting: the last transition, until the
    action after it is known.
    """

    environment: Environment
    index: int
    seed: int  # of the training
    number: int = 0
    actions: list[int] = field(default_factory=list)
    observation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waiting: dict[str, np.ndarray | float | int | bool] | None = None

    def begin(self) -> None:
        """The episode of this number, from its start."""
        seed = TRAINING_SEEDS + derive_seed(self.seed, "episode", self.index, self.number) // 2
        self.observation, self.actions, self.waiting = self.environment.reset(seed), [], None

    def act(self, action: int, replay: Replay | None) -> None:
        """One step; the transitions that are whole by it go into `replay`. One that the limit of steps cuts off has no
        action after it, and is no end: it is left out.
        """
        if self.waiting is not None and replay is not None:
            replay.add(**self.waiting, next_action=action)
        before = self.observation
        self.observation, reward, terminated, cut_off = self.environment.step(action)
        self.actions.append(action)
        self.waiting = {
            "observation": before, "action": action, "reward": reward, "next": self.observation, "terminal": terminated,
        }  # fmt: skip
        if terminated and replay is not None:
            replay.add(**self.waiting, next_action=0)
        if terminated or cut_off:
            self.number += 1
            self.begin()

    def again(self, number: int, actions: list[int]) -> None:
        """To where an episode stood after these actions."""
        self.number = number
        self.begin()
        for action in actions:
            self.act(action, None)


class Played(Protocol):
    """What there is to know of a task whose episodes are played. log: transitions to begin from, as `Replay` has them.
    unit: that of the action values.
    """

    about: EnvSpec
    log: Arrays
    unit: float

    def preprocessor(self) -> nn.Module: ...

    def environments(self, n: int) -> list[Environment]: ...

    def n_examples(self, split: Split) -> int: ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor: ...


class ReplayTraining:
    """What `train.fit` sees of a task while its network plays: the task, but for where the batches come from."""

    def __init__(self, task: Played, model: nn.Module, plan: FitPlan, state: TrainState) -> None:
        self.task, self.model, self.plan, self.epoch = task, model, plan, state.epoch
        self.preprocessor = task.preprocessor().to(plan.device)
        self.replay = Replay(task.log)
        self.target: nn.Module | None = None
        self.state = state
        self.players = [Player(env, index, plan.seed) for index, env in enumerate(task.environments(PLAYERS))]

    def n_examples(self, split: str) -> int:
        return self.task.n_examples("train")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch)

    def batches(self, split: str, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """One epoch: as many batches as the log would have, and a round of play whenever the transitions so far have
        been drawn REPLAYED times. The network has its weights by now: `train.fit` has restored them.
        """
        if self.target is None:
            self.target = self._begin()
        generator = np.random.default_rng(seed)
        n_batches = -(-self.n_examples("train") // training.batch_size)
        n_rounds = -(-self.n_examples("train") // (REPLAYED * PLAYERS))
        played = 0
        for number in range(n_batches):
            while played * n_batches <= number * n_rounds:
                self._round(generator, self.chance(self.epoch + number / n_batches))
                played += 1
            yield self._batch(self.replay.draw(generator, training.batch_size))
            if (self.epoch * n_batches + number + 1) % RENEWED == 0:
                self.target.load_state_dict(self.model.state_dict())
        self.epoch += 1

    def chance(self, epoch: float) -> float:
        """The share of random actions."""
        if self.plan.recovers:
            return LEAST_RANDOM
        return max(LEAST_RANDOM, 1.0 - (1.0 - LEAST_RANDOM) * epoch / (EXPLORE * self.plan.training.epochs))

    @torch.no_grad()
    def _round(self, generator: np.random.Generator, chance: float) -> None:
        """A step of every player."""
        seen = np.stack([player.observation for player in self.players])
        self.model.eval()
        values = self.model(self._scaled(seen))
        self.model.train()
        actions = values.argmax(1).cpu().numpy()
        at_random = generator.random(PLAYERS) < chance
        actions = np.where(at_random, generator.integers(self.task.about.n_actions, size=PLAYERS), actions)
        for player, action in zip(self.players, actions.tolist(), strict=True):
            player.act(action, self.replay)

    @torch.no_grad()
    def _batch(self, drawn: Arrays) -> Batch:
        """Of transitions: states, and what the action that was taken in each is worth by what came of it."""
        assert self.target is not None
        states, after = self._scaled(drawn["observation"]), self._scaled(drawn["next"])
        device = states.device
        value = self.target(after)
        if isinstance(self.model, HasBootstrapValue):
            self.model.eval()
            own = self.model(after)
            self.model.train()
            value = self.model.bootstrap(own, value, torch.from_numpy(drawn["next_action"]).to(device))
        else:
            value = value.amax(1)
        reward = torch.from_numpy(drawn["reward"]).to(device) / self.task.unit
        goes_on = torch.from_numpy(~drawn["terminal"]).to(device)
        worth = reward + DISCOUNT * goes_on * value.float()
        action = torch.from_numpy(drawn["action"]).to(device)
        return Batch((states,), torch.stack([action.float(), worth], 1))

    def _scaled(self, observations: np.ndarray) -> Tensor:
        scaled: Tensor = self.preprocessor(torch.from_numpy(observations).to(self.plan.device))
        return scaled

    # ── from a state, and to one ────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> nn.Module:
        """Where the state stands, or at the very start. Returns the target."""
        target = copy.deepcopy(self.model).eval().requires_grad_(False)
        kept = with_prefix(self.state.tensors, "target.")
        if not kept:
            for player in self.players:
                player.begin()
            return target
        target.load_state_dict(kept)
        where: dict[str, JSON] = self.state.numbers["play"]
        self.replay.filled, self.replay.at = where["filled"], where["at"]
        for name, values in self.replay.fields.items():
            values[: self.replay.filled] = self.state.tensors[f"replay.{name}"].numpy()
        for player, number, actions in zip(self.players, where["episodes"], where["actions"], strict=True):
            player.again(number, actions)
        return target

    def keep_(self, state: TrainState) -> None:
        """Put all that the next call needs into `state`."""
        if self.target is None:  # nothing was trained: what was there stands
            state.tensors |= {k: v for k, v in self.state.tensors.items() if k.startswith(("target.", "replay."))}
            state.numbers["play"] = self.state.numbers.get("play")
            return
        replay = self.replay
        state.tensors |= snapshot(self.target.state_dict(), "target.")
        state.tensors |= {
            f"replay.{name}": torch.from_numpy(values[: replay.filled].copy()) for name, values in replay.fields.items()
        }
        state.numbers["play"] = {
            "filled": replay.filled,
            "at": replay.at,
            "episodes": [player.number for player in self.players],
            "actions": [list(player.actions) for player in self.players],
        }
