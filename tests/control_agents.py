"""Small environments and agents: what the tests of control share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.core.space_file import load_space
from searchkit.onnx.predictor import Deployed, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.rl.control import ControlTask

gymnasium = pytest.importorskip("gymnasium", reason="it plays the environments; pip install 'searchkit[control]'")

DQN = load_space(Path(__file__).parents[1] / "spaces" / "dqn.py")


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


def corridor_task() -> ControlTask:
    """The task of the corridor, which gymnasium knows once this module is imported."""
    return registry.load({"task": "gymnasium:Corridor-v0"})


def predictor(task: ControlTask, net: nn.Module) -> TorchPredictor:
    return TorchPredictor(Deployed(task.preprocessor(), net, task.postprocessor()).eval(), task.inputs, task.answers)


def small(task: ControlTask, seed: int = 0, **arch: Any) -> nn.Module:
    torch.manual_seed(seed)
    return DQN.build(DQN.arch(**{"widths": (16, 16), **arch}), task.spec)
