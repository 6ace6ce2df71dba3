"""Q-learning with experience replay: batches from the episodes that the network itself plays.

Deep Q-networks (Mnih et al. 2015, Nature 518): transitions of many episodes are kept and drawn at random, and their
target values come from an older copy of the network, the target network. How the next state is valued is up to the
network (`HasBootstrapValue`): the largest value (Watkins & Dayan 1992), double (van Hasselt et al. 2016,
arXiv:1509.06461), or that of the action taken there (SARSA: Rummery & Niranjan 1994). With a table as the network this
is the tabular method.

The optimizer steps are those of `train.fit`; this module gives the batches. Training resumes bit for bit from a
TrainState: draws depend on (seed, epoch) alone, and an environment is restored by its seed and its actions.
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
    """A ring buffer of transitions.

    Its fields, (capacity, …) each: observation, action, reward, next, terminal, and next_action, the action taken in
    the next state.
    """

    def __init__(self, log: Arrays) -> None:
        """Begin with the transitions of a log, with the same fields and at most as many as there is room for."""
        row = sum(values[:1].nbytes for values in log.values())
        n = len(log["action"])
        self.capacity = max(n, min(CAPACITY, CAPACITY_BYTES // row))
        self.fields = {name: np.zeros((self.capacity, *values.shape[1:]), values.dtype) for name, values in log.items()}
        for name, values in log.items():
            self.fields[name][:n] = values
        self.filled, self.at = n, n % self.capacity

    def add(self, **row: np.ndarray | float | int | bool) -> None:
        """Add a transition in place of the oldest."""
        for name, value in row.items():
            self.fields[name][self.at] = value
        self.at = (self.at + 1) % self.capacity
        self.filled = min(self.filled + 1, self.capacity)

    def draw(self, generator: np.random.Generator, n: int) -> Arrays:
        """Draw n transitions with replacement."""
        rows = generator.integers(0, self.filled, n)
        return {name: values[rows] for name, values in self.fields.items()}


@dataclass
class Player:
    """An environment in the middle of an episode.

    Attributes:
        environment: The environment.
        index: Number of this player.
        seed: Seed of the training.
        number: Number of the episode.
        actions: Actions taken so far.
        observation: The current observation.
        waiting: The last transition, until the next action completes it.
    """

    environment: Environment
    index: int
    seed: int  # of the training
    number: int = 0
    actions: list[int] = field(default_factory=list)
    observation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waiting: dict[str, np.ndarray | float | int | bool] | None = None

    def begin(self) -> None:
        """Start the episode of the current number."""
        # Half of a 31-bit seed, so that the sum stays below 2³¹.
        seed = TRAINING_SEEDS + derive_seed(self.seed, "episode", self.index, self.number) // 2
        self.observation, self.actions, self.waiting = self.environment.reset(seed), [], None

    def act(self, action: int, replay: Replay | None) -> None:
        """Take one step, and add the transition that it completes to `replay`.

        A transition that the step limit cuts off has no next action and is no end: it is left out.
        """
        # A transition waits one step for its next action, which SARSA's target needs.
        if self.waiting is not None and replay is not None:
            replay.add(**self.waiting, next_action=action)
        before = self.observation
        self.observation, reward, terminated, cut_off = self.environment.step(action)
        self.actions.append(action)
        self.waiting = {
            "observation": before, "action": action, "reward": reward, "next": self.observation, "terminal": terminated,
        }  # fmt: skip
        # Nothing follows an end: its value is multiplied by 0, so any next action will do.
        if terminated and replay is not None:
            replay.add(**self.waiting, next_action=0)
        if terminated or cut_off:
            self.number += 1
            self.begin()

    def again(self, number: int, actions: list[int]) -> None:
        """Replay an episode up to these actions."""
        self.number = number
        self.begin()
        for action in actions:
            self.act(action, None)


class Played(Protocol):
    """What Q-learning needs of a task whose episodes are played.

    Attributes:
        about: The environment.
        log: Transitions to begin with, as `Replay` keeps them.
        unit: Unit of the action values.
    """

    about: EnvSpec
    log: Arrays
    unit: float

    def preprocessor(self) -> nn.Module:
        """Scaling of observations."""

    def environments(self, n: int) -> list[Environment]:
        """Make n environments."""

    def n_examples(self, split: Split) -> int:
        """Examples of a split."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss of a batch of actions with their values."""


class ReplayTraining:
    """The task as `train.fit` sees it while its network plays: the same loss, with batches from replay."""

    def __init__(self, task: Played, model: nn.Module, plan: FitPlan, state: TrainState) -> None:
        self.task, self.model, self.plan, self.epoch = task, model, plan, state.epoch
        self.preprocessor = task.preprocessor().to(plan.device)
        self.replay = Replay(task.log)
        self.target: nn.Module | None = None
        self.state = state
        self.players = [Player(env, index, plan.seed) for index, env in enumerate(task.environments(PLAYERS))]

    def n_examples(self, split: str) -> int:
        """Examples of a split."""
        return self.task.n_examples("train")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's loss."""
        return self.task.loss(model, batch)

    def batches(self, split: str, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """One epoch of batches.

        There are as many as the log would give, with a round of play whenever the transitions so far have been drawn
        REPLAYED times. The network has its weights by now: `train.fit` has restored them.
        """
        if self.target is None:
            self.target = self._begin()
        generator = np.random.default_rng(seed)
        n_batches = -(-self.n_examples("train") // training.batch_size)
        n_rounds = -(-self.n_examples("train") // (REPLAYED * PLAYERS))
        played = 0
        for number in range(n_batches):
            # The rounds are spread evenly over the epoch; the first comes before the first batch.
            while played * n_batches <= number * n_rounds:
                self._round(generator, self.chance(self.epoch + number / n_batches))
                played += 1
            yield self._batch(self.replay.draw(generator, training.batch_size))
            # Counted from the start of the training, so that a resumed one renews at the same steps.
            if (self.epoch * n_batches + number + 1) % RENEWED == 0:
                self.target.load_state_dict(self.model.state_dict())
        self.epoch += 1

    def chance(self, epoch: float) -> float:
        """Share of random actions at this epoch."""
        if self.plan.recovers:
            return LEAST_RANDOM
        return max(LEAST_RANDOM, 1.0 - (1.0 - LEAST_RANDOM) * epoch / (EXPLORE * self.plan.training.epochs))

    @torch.no_grad()
    def _round(self, generator: np.random.Generator, chance: float) -> None:
        """Take one step with every player."""
        seen = np.stack([player.observation for player in self.players])
        # Else batch norm would take its statistics from the few states of one round, and dropout would change actions.
        self.model.eval()
        values = self.model(self._scaled(seen))
        self.model.train()
        actions = values.argmax(1).cpu().numpy()
        # Drawn for every player, used or not: later draws do not depend on how many actions were random.
        at_random = generator.random(PLAYERS) < chance
        actions = np.where(at_random, generator.integers(self.task.about.n_actions, size=PLAYERS), actions)
        for player, action in zip(self.players, actions.tolist(), strict=True):
            player.act(action, self.replay)

    @torch.no_grad()
    def _batch(self, drawn: Arrays) -> Batch:
        """A batch from transitions: states, and the value of the action taken in each by what followed."""
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
        """Start afresh, or where the state stands; return the target network."""
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
        """Store in `state` all that the next call needs."""
        if self.target is None:  # nothing was trained: what was there stands
            state.tensors |= {k: v for k, v in self.state.tensors.items() if k.startswith(("target.", "replay."))}
            state.numbers["play"] = self.state.numbers.get("play")
            return
        replay = self.replay
        state.tensors |= snapshot(self.target.state_dict(), "target.")
        # Copied: from_numpy shares memory, and later rounds write into the same buffer.
        state.tensors |= {
            f"replay.{name}": torch.from_numpy(values[: replay.filled].copy()) for name, values in replay.fields.items()
        }
        state.numbers["play"] = {
            "filled": replay.filled,
            "at": replay.at,
            "episodes": [player.number for player in self.players],
            "actions": [list(player.actions) for player in self.players],
        }
