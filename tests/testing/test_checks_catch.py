"""The conformance suite catches what it is for: each family here has one planted defect, and one check must see it.

The sound family that the defects are planted in passes all of the checks, so that a failure is the defect's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.tasks import registry
from searchkit.testing.families import CHECKS
from searchkit.testing.fixture import N_ARCHS, Fixture
from searchkit.testing.suite import run_check, run_checks

SOUND = '''
"""A sound family for the suite to pass."""
from dataclasses import dataclass
import random
import torch
from torch import nn
from searchkit.core.space import Budget, Space
from searchkit.core.training import Training, TrainingSpace

@dataclass(frozen=True)
class Arch:
    width: int
    tanh: bool

class Net(nn.Module):
    def __init__(self, width, tanh):
        super().__init__()
        self.first = nn.Linear(30, width)
        self.norm = nn.BatchNorm1d(width)
        self.act = nn.Tanh() if tanh else nn.ReLU()
        self.last = nn.Linear(width, 1)

    def forward(self, x):
        h = self.act(self.norm(self.first(x)))
        return self.last(h)

def accepts(spec):
    return None if spec.modality == "tabular" else "it takes tables"

def sample(trial, spec):
    return Arch(32 * trial.suggest_int("width", 2, 16), trial.suggest_categorical("tanh", [True, False]))

def build(arch, spec):
    return Net(arch.width, arch.tanh)

SPACE = Space(name="planted", arch=Arch, accepts=accepts, sample=sample, build=build,
    training=TrainingSpace(Training(lr=5e-3)), task="breast-cancer", budget=Budget(), paper="none")
'''

DEFECTS = {
    "build ignores a parameter": (
        "every_parameter_matters",
        "Net(arch.width, arch.tanh)",
        "Net(arch.width, True)",
    ),
    "eval depends on the batch": (
        "eval_ignores_other_rows",
        "nn.BatchNorm1d(width)",
        "nn.BatchNorm1d(width, track_running_stats=False)",
    ),
    "eval draws": ("eval_is_deterministic", "return self.last(h)", "return self.last(h + torch.randn_like(h))"),
    "prune shrinks nothing": (
        "prune_shrinks",
        "h = self.act(self.norm(self.first(x)))",
        "w = self.first.weight.detach() * 1.0\n        h = self.act(torch.nn.functional.linear(x, w) "
        "+ self.first.bias.sum() * 0)",
    ),
    "a computation depends on a width": (
        "cut_equals_masked",
        "return self.last(h)",
        "return self.last(h if h.shape[1] > 12 else 2 * h)",
    ),
    "export disagrees": (
        "export_agrees",
        "return self.last(h)",
        "return self.last(h) + (1.0 if torch.compiler.is_exporting() else 0.0)",
    ),
    "a parameter's choices depend on another": (
        "parameters_keep_their_kind",
        'trial.suggest_int("width", 2, 16), trial.suggest_categorical("tanh", [True, False])',
        'trial.suggest_int("width", 2, 16),\n'
        '        trial.suggest_categorical("tanh", [True, False] if trial.params["width"] > 8 else [True])',
    ),
    "sample asks the global random": ("sample_is_deterministic", "32 * trial", "32 * random.randint(1, 9) + trial"),
    "sample asks hash()": ("sample_is_deterministic", "32 * trial", "32 * (hash('width') % 1000) + trial"),
    "the output has another shape": ("output_shape", "return self.last(h)", "return self.last(h)[:, 0]"),
    "the batch axis is lost": ("output_shape", "return self.last(h)", "return self.last(h).squeeze()"),
    "a parameter gets no gradient": (
        "gradients",
        "self.last = nn.Linear(width, 1)",
        "self.last = nn.Linear(width, 1)\n        self.spare = nn.Linear(3, 3)",
    ),
    "it does not learn": ("learns", "return self.last(h)", "return self.last(h.detach()).detach() + 0 * self.last(h)"),
    "weights are shared by builds": (
        "build_is_pure",
        "def build(arch, spec):\n    return Net(arch.width, arch.tanh)",
        "KEPT = {}\n\ndef build(arch, spec):\n    return KEPT.setdefault(arch, Net(arch.width, arch.tanh))",
    ),
    "state outside of the weights": (
        "weights_round_trip",
        "self.last = nn.Linear(width, 1)",
        "self.last = nn.Linear(width, 1)\n        self.shift = float(torch.rand(()))\n"
        "        self.last.register_forward_hook(lambda m, i, o: o + self.shift)",
    ),
    "arch is not frozen": ("arch_survives_json", "@dataclass(frozen=True)", "@dataclass"),
    "it refuses its own task": ("accepts_its_task", 'spec.modality == "tabular"', 'spec.modality == "image"'),
}


@pytest.fixture(scope="module")
def cancer() -> Task:
    return registry.load({"task": "breast-cancer"})


def planted(folder: Path, defect: str) -> Path:
    check, sound, broken = DEFECTS[defect]
    assert SOUND.count(sound) == 1, f"{sound!r} is to be found once"
    path = folder / "planted.py"
    path.write_text(SOUND.replace(sound, broken))
    return path


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_caught(defect: str, tmp_path: Path, cancer: Task) -> None:
    subject = Fixture(load_space(planted(tmp_path, defect)), cancer, tmp_path)
    result = run_check(DEFECTS[defect][0], subject)
    assert result.outcome == "failed"
    assert len(result.detail) > 20


def test_the_sound_family_passes_and_every_check_is_run(tmp_path: Path, cancer: Task) -> None:
    path = tmp_path / "planted.py"
    path.write_text(SOUND)
    results = run_checks(load_space(path), cancer, path=path)
    assert [r.check for r in results] == list(CHECKS)
    assert [(r.check, r.detail) for r in results if r.outcome != "passed"] == []


def test_a_skip_gives_its_reason_and_must_name_a_check(tmp_path: Path, cancer: Task) -> None:
    path = tmp_path / "planted.py"
    path.write_text(SOUND.replace('paper="none")', 'paper="none", skips={"gradients": "it has none to give"})'))
    subject = Fixture(load_space(path), cancer, tmp_path)
    result = run_check("gradients", subject)
    assert (result.outcome, result.detail) == ("skipped", "it has none to give")


def test_no_candidate_is_built_that_no_check_looks_at() -> None:
    built: list[int] = []

    def feasible() -> Iterator[int]:
        for number in range(100):
            built.append(number)
            yield number

    fixture: Any = SimpleNamespace(feasible=feasible)
    assert Fixture.candidates.func(fixture) == built == list(range(N_ARCHS))
