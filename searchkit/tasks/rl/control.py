"""Control: an agent plays an environment by the values of its actions, and is scored by the returns of whole episodes.

A training example is a state on the way of an exploration policy, with the action taken and its return: enough to scale
the features, to calibrate int8 and to rank what pruning may remove; training goes on from there by its own play
(`replay`). An example of val or test is an episode, known by its seed: its score is its return, and the row that stands
for it is a state on its way, at which two networks agree if they would take the same action.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, DataSpec, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.network import HasAuxLoss
from searchkit.core.serialization import JSON, derive_seed, freeze, thaw
from searchkit.core.state import snapshot, with_prefix
from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.data.dataset import Dataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.data.summary import summarize
from searchkit.tasks.bundle_files import script
from searchkit.tasks.predictions import ACTIONS
from searchkit.tasks.protocols import ProblemSpec
from searchkit.tasks.rl.encoding import InUnit, encoder
from searchkit.tasks.rl.environments import Environment, EnvSpec, ExplorationPolicy, play
from searchkit.tasks.rl.replay import DISCOUNT, TRAINING_SEEDS, ReplayTraining

EMBEDDED = {
    "CartPole-v1": "keep a pole upright on a cart for 500 steps: 4 numbers, 2 actions (gymnasium)",
    "FrozenLake-v1": "cross a slippery lake without falling in: 16 states, 4 actions (gymnasium)",
}

SCHEMES = {"gymnasium": "an environment with discrete actions, such as gymnasium:Acrobot-v1"}

LOGGED = 8192
"""Transitions of the wanderer."""

EPISODES = {"val": 50, "test": 100}

SPREAD = 10.0
"""The largest value of the log in the unit that networks learn in: values of 100 take Adam long to reach, and between
values of 1 the gain of one action over another is lost in its steps."""

CHECKS = 20
"""Times in a training that it plays on val and keeps the best network so far: Q-learning forgets and learns again."""


SHARPNESS = 8.0
"""Of softened policies at temperature 1: a step of one standard deviation of the teacher's gains, in nats. Rusu et al.
2016, arXiv:1511.06295, found that sharp ones teach best."""


@dataclass(frozen=True)
class Log:
    """What the exploration policy saw.

    Attributes:
        data: Its states, and those of val and test, by row.
        actions: (rows,) actions taken there.
        values: (rows,) discounted rewards that followed.
        transitions: Those of train, as `replay.Replay` keeps them.
        unit: (features,) what random actions change each feature by.
        chance: Mean return of its episodes.
    """

    data: Dataset
    actions: np.ndarray
    values: np.ndarray
    transitions: Arrays
    unit: np.ndarray
    chance: float


class ControlTask:
    """The task of playing an environment; implements `Task`."""

    labels: tuple[str, ...] = ()
    problem = "control"

    def __init__(self, about: EnvSpec, log: Log) -> None:
        self.about, self.data, self._log = about, log.data, log
        self.name = log.data.name
        self.log = log.transitions
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("observation", about.shape, about.dtype),)
        self.answers: tuple[TensorSpec, ...] = (TensorSpec("action_values", (about.n_actions,)),)
        self.spec = DataSpec(
            modality="tabular",
            inputs=(TensorSpec("observation", (about.features,)),),
            outputs=(TensorSpec("action_values", (about.n_actions,)),),
        )
        span = 1.0 if about.threshold is None else abs(about.threshold - log.chance)
        self.goal = Goal("mean_return", "maximize", span=max(span, 1e-6))
        self.unit = max(float(np.abs(log.values[log.data.rows["train"]]).max()), 1e-6) / SPREAD
        self._preprocessor = self.preprocessor()
        self._environments: list[Environment] = []

    # ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def fingerprint(self) -> str:
        """Digest of the environment and the log."""
        config, arrays = self.pack()
        hasher = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, values in sorted(arrays.items()):
            hasher.update(f"{name} {values.dtype.str} {values.shape}".encode())
            hasher.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
        return hasher.hexdigest()[:16]

    def preprocessor(self) -> nn.Module:
        """Scaling of observations, or one-hot states."""
        return encoder(self.about, self.raw("train")["observation"], self._log.unit)

    def postprocessor(self) -> nn.Module:
        """Action values from the network's unit to that of the rewards."""
        return InUnit(self.unit)

    def n_examples(self, split: Split) -> int:
        """States of train, or episodes of val and test."""
        return len(self.data.rows[split])

    def splits(self) -> Arrays:
        """Row indices by split."""
        return dict(self.data.rows)

    def raw(self, split: Split) -> Arrays:
        """Observations of the split."""
        return self.data.of(split)

    def batches(self, split: Split, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """States with the action taken and its value. Smoothing and mixup have no meaning here and are ignored.

        Raises:
            BadInput: The training asks for an augmentation.
        """
        if split == "test":
            raise ValueError("batches gives train and val; test is read by evaluate, for the evidence alone")
        if training.augment:
            raise BadInput(f"No augmentation '{training.augment[0]}' for an environment; leave it out.")
        rows = torch.from_numpy(self.data.rows[split])
        if split == "train":
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        return self._logged(torch.split(rows, training.batch_size), device)

    @torch.no_grad()
    def _logged(self, batches: tuple[Tensor, ...], device: str) -> Iterator[Batch]:
        preprocessor = self._preprocessor.to(device)
        for rows in batches:
            columns = (self.data.inputs["observation"], self._log.actions, self._log.values)
            seen, action, value = (torch.from_numpy(column[rows.numpy()]).to(device) for column in columns)
            states = preprocessor(seen)
            yield Batch((states,), torch.stack([action.float(), value / self.unit], 1))

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Huber loss of the values of the actions taken.

        batch.target is (B, 2): the action, and its value in the network's unit.
        """
        output = model(*batch.inputs).float()
        taken = output.gather(1, batch.target[:, :1].long())[:, 0]
        loss = F.smooth_l1_loss(taken, batch.target[:, 1])
        return loss + model.aux_loss() if isinstance(model, HasAuxLoss) else loss

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """KL divergence of the softened policies plus the squared difference of the values in the teacher's spread.

        An action's advantage is measured against how far the teacher's advantages lie apart, so that a temperature
        means the same in every environment.
        """
        with torch.no_grad():
            wanted = teacher(*batch.inputs).float()
            gains = wanted - wanted.mean(1, keepdim=True)
            scale = SHARPNESS / (temperature * gains.std().clamp(min=1e-6))
            softened = F.log_softmax(gains * scale, 1)
            spread = wanted.std().clamp(min=1e-6)
        given = student(*batch.inputs).float()
        policies = F.kl_div(F.log_softmax(given * scale, 1), softened, reduction="batchmean", log_target=True)
        return policies + F.mse_loss(given / spread, wanted / spread)

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Learn by playing, and leave the model at its best check on val.

        Early stopping aside it works as `train.fit` does. The state holds the replayed transitions too.
        """
        from searchkit import train

        ends = time.monotonic() + plan.seconds
        playing = ReplayTraining(self, model, plan, state)
        every = max(1, round(plan.training.epochs / CHECKS))
        plain = replace(plan.training, patience=0)
        best = with_prefix(state.tensors, "best.")
        value, epoch = state.numbers.get("best"), int(state.numbers.get("best_epoch", 0))
        stopped = state.numbers.get("stopped_by")
        while state.epoch < plan.until and stopped is None:
            # Legs end at multiples of `every`: a training in several calls is checked at the same epochs.
            until = min(plan.until, every * (state.epoch // every + 1))
            left = max(0.0, ends - time.monotonic())
            leg = replace(plan, training=plain, until=until, seconds=left, validate=False)
            # it is asked for what a training asks of a task: n_examples, batches and the loss
            state = train.fit(model, cast(Task, playing), leg, state)
            stopped = state.numbers["stopped_by"]
            if state.epoch % every == 0 or state.epoch == plan.training.epochs or (stopped and not best):
                found = train.validation(model, self, plan.device)
                state.numbers["curve"][-1]["val"] = found
                # of equals the later: its values are nearer to what they are to be
                if value is None or not self.goal.better(value, found):
                    value, epoch = found, state.epoch
                    best = snapshot(model.state_dict())
        after = TrainState(state.epoch, dict(state.tensors), dict(state.numbers))
        after.numbers |= {"best": value, "best_epoch": epoch}
        after.tensors |= {f"best.{k}": v for k, v in best.items()}
        playing.keep_(after)
        if best:
            model.load_state_dict(best)
        model.eval()
        return after

    # ── playing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def environments(self, n: int) -> list[Environment]:
        """Make n environments.

        Raises:
            NotInstalled: gymnasium is missing.
        """
        return [Environment(self.about.id) for _ in range(n)]

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Play every episode of val or test, always taking the action with the largest value."""
        if split == "train":
            raise ValueError("train has states, not episodes; evaluate plays val and test")
        seeds = self.seeds(split)
        while len(self._environments) < len(seeds):  # kept: an episode begins anew by its seed
            self._environments += self.environments(1)

        def choose(observations: np.ndarray) -> np.ndarray:
            # an answer that is no number is played too, as the first action
            return best_actions(predict({"observation": observations})["action_values"]).clip(min=0)

        returns, steps = play(self._environments[: len(seeds)], seeds, choose)
        decisions = best_actions(predict(self.raw(split))["action_values"])
        metrics = {"mean_return": self.goal.value(returns), "mean_steps": float(steps.mean())}
        return Evaluation(metrics, returns, decisions, np.zeros(0))

    def seeds(self, split: Split) -> list[int]:
        """Seeds of the episodes of val or test."""
        return _seeds(self.data.split_seed, split)

    # ── telling, storing ────────────────────────────────────────────────────────────────────────────────────────────

    def bundle_files(self) -> dict[str, str]:
        """A run.py that plays, and what it must know of the environment; see `HasBundleFiles`."""
        told = {**freeze(self.about), "seeds": self.seeds("test")}
        return {
            "run.py": script("run_control.py"),
            "environment.json": json.dumps(told, indent=1, ensure_ascii=False) + "\n",
        }

    def summary(self) -> dict[str, JSON]:
        """What was found about the environment, as plain data."""
        return summarize(self.data, self.inputs) | {"goal": self.goal.metric, "fingerprint": self.fingerprint}

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """The task as plain data; see `Task.pack`."""
        words, arrays = self.data.pack()
        log = self._log
        config = {"module": "control", "about": freeze(self.about), "chance": log.chance, "data": words}
        arrays = arrays | {"actions": log.actions, "values": log.values, "unit": log.unit}
        return config, arrays | {f"log.{name}": values for name, values in log.transitions.items()}


PROBLEMS = {
    "control": ProblemSpec(
        None,
        ProblemInfo(
            description="the action to take in an environment",
            predicts="the value of each action, of which the best is taken",
            selectable=False,
        ),
        ACTIONS,
    ),
}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> ControlTask:
    """The inverse of `ControlTask.pack`."""
    log = {name.removeprefix("log."): values for name, values in arrays.items() if name.startswith("log.")}
    data = Dataset.unpack(config["data"], arrays)
    about = thaw(EnvSpec, config["about"])
    chance = float(config["chance"])
    return ControlTask(about, Log(data, arrays["actions"], arrays["values"], log, arrays["unit"], chance))


def load(source: Source) -> ControlTask:
    """Load a task by the name of its environment.

    Raises:
        BadInput: There is no such environment, or its actions are not discrete.
        NotInstalled: gymnasium is missing.
    """
    assert source.task is not None
    id = source.task.removeprefix("gymnasium:")
    for what, given in (("--modality", source.modality), ("--problem", source.kind)):
        if given is not None:
            raise BadInput(f"{what} '{given}' is for data, and '{id}' is an environment that is played; leave it out.")
    environment = Environment(id)
    return ControlTask(environment.about, wander(environment, split_seed=source.split_seed))


def _seeds(split_seed: int, split: str) -> list[int]:
    """Seeds of val and test episodes, one range after the other, all below those of training."""
    first = derive_seed("episodes", split_seed) % (TRAINING_SEEDS // 2)
    first += 0 if split == "val" else EPISODES["val"]
    return list(range(first, first + EPISODES[split]))


def best_actions(values: np.ndarray) -> np.ndarray:
    """(n, n_actions) values to (n,) int64 actions. NaN is never taken; −1 if all are NaN."""
    finite = np.isfinite(values)
    best = np.where(finite, values, -np.inf).argmax(1)
    return np.where(finite.any(1), best, -1).astype(np.int64)


def wander(environment: Environment, *, split_seed: int) -> Log:
    """Explore an environment; the same seed gives the same log."""
    import gymnasium

    about = environment.about
    wanderer = ExplorationPolicy(environment, TRAINING_SEEDS + derive_seed("wanderer", split_seed) // 2)
    seen: dict[str, list[np.ndarray]] = {
        name: [] for name in ("observation", "action", "reward", "next", "terminal", "next_action", "value")
    }
    returns: list[float] = []
    n = 0
    while n < LOGGED:
        episode = wanderer.episode(TRAINING_SEEDS + derive_seed("log", split_seed, len(returns)) // 2)
        returns.append(float(episode.rewards.sum()))
        length = len(episode.actions) if episode.terminated else len(episode.actions) - 1  # as in replay.Player.act
        rows = {
            "observation": episode.observations[:-1], "action": episode.actions, "reward": episode.rewards,
            "next": episode.observations[1:], "terminal": np.arange(len(episode.actions)) == len(episode.actions) - 1,
            "next_action": np.append(episode.actions[1:], 0), "value": episode.values(DISCOUNT),
        }  # fmt: skip
        for name, values in rows.items():
            seen[name].append(values[:length])
        n += length
    log = {name: np.concatenate(parts)[:LOGGED] for name, parts in seen.items()}
    # Popped: returns belong to the examples, and are no field of the replay.
    states = {"train": (log["observation"], log["action"], log.pop("value"))}
    for split in ("val", "test"):
        states[split] = _on_the_way(wanderer, _seeds(split_seed, split))
    ends = np.cumsum([0, *(len(actions) for _, actions, _ in states.values())])
    observations, actions, values = (np.concatenate(parts) for parts in zip(*states.values(), strict=True))
    data = Dataset(
        name=about.id.replace("/", "-").replace(":", "-"),
        modality="tabular",
        kind="control",
        inputs={"observation": observations},
        target=None,
        rows={split: np.arange(ends[k], ends[k + 1]) for k, split in enumerate(states)},
        where=f"the environment {about.id} of gymnasium {gymnasium.__version__}",
        split_seed=split_seed,
    )
    return Log(data, actions, values, log, wanderer.spread, float(np.mean(returns)))


def _on_the_way(wanderer: ExplorationPolicy, seeds: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A state of each of these episodes, the action taken there, and its return."""
    observations, actions, values = [], [], []
    for seed in seeds:
        episode = wanderer.episode(seed)
        step = int(np.random.default_rng(derive_seed("state", seed)).integers(len(episode.actions)))
        observations.append(episode.observations[step])
        actions.append(episode.actions[step])
        values.append(episode.values(DISCOUNT)[step])
    return np.stack(observations), np.array(actions, np.int64), np.array(values, np.float32)
