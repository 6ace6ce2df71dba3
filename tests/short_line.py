"""The short line that several tests read: a small perceptron on digits, promoted, quantized and exported. Made once."""

import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Space
from searchkit.core.training import FitPlan, Training, TrainingSpace, TrainState
from searchkit.run import Run
from searchkit.stages.export import Export
from searchkit.stages.promote import Promote
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry


@dataclass(frozen=True)
class Width:
    hidden: int = 64


def build(arch, spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, arch.hidden), nn.ReLU(), nn.Linear(arch.hidden, 10))


SPACE = Space(
    "two-layers", Width, lambda spec: None, lambda trial, spec: Width(), build, TrainingSpace(), "digits", Budget(), "-"
)


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    torch.manual_seed(0)
    task = registry.load({"task": "digits", "split_seed": 0})
    run = Run.create(tmp_path_factory.mktemp("runs"), "short", {})
    ctx = Context(run, task, lambda name: SPACE, echo=lambda text: None)
    net, training = build(Width(), task.spec), Training(epochs=4)
    task.fit(net, FitPlan(training, seed=0, until=4), TrainState())
    made_by = {"stage": "Trial", "number": 0}
    draft = Artifact("trial", "two-layers", freeze(Width()), freeze(training), (), made_by, None)
    trial = run.save(draft, weights=net.state_dict(), log=[])
    fp32 = Promote()(trial, ctx)
    quantized = Quantize()(fp32, ctx)
    exported = Export()(quantized, ctx)
    return SimpleNamespace(ctx=ctx, fp32=fp32, quantized=quantized, exported=exported)


@pytest.fixture
def bundle(line, tmp_path):
    """A copy of the bundle, to do harm to."""
    return shutil.copytree(line.ctx.run.bundle, tmp_path / "bundle")
