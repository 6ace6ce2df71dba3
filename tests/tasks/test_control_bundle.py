"""An agent in its bundle, and what the command line refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from control_agents import DQN

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.serialization import freeze
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.onnx.predictor import OnnxPredictor
from searchkit.run import Run
from searchkit.stages.export import Export
from searchkit.stages.promote import Promote
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry
from searchkit.tasks.rl.control import ControlTask


@pytest.fixture(scope="module")
def cart() -> ControlTask:
    return registry.load({"task": "CartPole-v1"})


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
