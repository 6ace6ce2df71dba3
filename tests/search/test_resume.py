"""A search killed with SIGKILL and resumed equals the search that nobody killed, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import search_driver

from searchkit.run import Run
from searchkit.search.results import history

DRIVER = Path(search_driver.__file__)


def outcome(run: Run) -> list[tuple[Any, ...]]:
    """Everything that must not depend on kills: parameters, metrics, weights and scores of every trial."""
    trials = {a.id: a for a in run.trials()}
    rows: list[tuple[Any, ...]] = []
    for row in history(run):
        artifact = trials.get(row["artifact"])
        assert artifact is not None, row
        weights = {name: value.numpy().tobytes() for name, value in run.weights(artifact).items()}
        facts = (row["number"], row["way"], row["value"], row["rung"], row["epochs"], row["params"], row["cost"])
        rows.append((*facts, artifact.id, artifact.metrics, weights, run.scores(artifact).tobytes()))
    return rows


def finished(root: Path) -> set[int]:
    """The trials whose values are in the study. The file may not be there yet."""
    if not (root / "run" / "search.json").exists():
        return set()
    return {row["number"] for row in history(Run.open(root / "run")) if row["status"] == "trained"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    run = search_driver.go(tmp_path_factory.mktemp("straight"), "inline")
    return outcome(run)


def start(root: Path, *more: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(DRIVER.parent.parent), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, str(DRIVER), str(root), *more], env=environment)


def test_killed_at_durable_steps_and_resumed_equals_uninterrupted(tmp_path: Path, straight: list[Any]) -> None:
    done: set[int] = set()
    killed = 0
    rng = random.Random(0)
    for seed in range(4):
        process = start(tmp_path, "inline", str(seed), str(rng.randint(6, 16)))
        killed += process.wait(timeout=120) == -signal.SIGKILL
        now = finished(tmp_path)
        assert done <= now, "a completed trial was lost"
        done = now
    run = search_driver.go(tmp_path, "inline")
    assert killed >= 3
    assert outcome(run) == straight
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run.path / 'study.db'}")
    assert {t.state.name for t in study.trials} == {"COMPLETE"}
    assert not list((run.path / "rungs").iterdir()), "a state outlived its trial"
    once_each = [row["trial"] for row in run.lines("search.jsonl") if row["event"] == "trained"]
    assert len(once_each) == len(set(once_each)), "a completed trial was trained again"


def test_a_search_of_two_families_survives_kills_too(tmp_path: Path) -> None:
    whole = outcome(search_driver.go(tmp_path / "straight", "inline", families=search_driver.BOTH))
    assert {facts[5].keys() >= {"depth"} for facts in whole} == {True, False}, "one family had all trials"
    rng, killed = random.Random(1), 0
    for seed in range(3):
        process = start(tmp_path / "killed", "inline", str(seed), str(rng.randint(8, 18)), "both")
        killed += process.wait(timeout=120) == -signal.SIGKILL
    run = search_driver.go(tmp_path / "killed", "inline", families=search_driver.BOTH)
    assert killed >= 2
    assert outcome(run) == whole
    assert not list((run.path / "rungs").iterdir()), "a state outlived its trial"


@pytest.mark.parametrize("target", ["save", "tell"])
def test_a_kill_between_artifact_and_value_trains_nothing_again(
    tmp_path: Path, straight: list[Any], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """The moment after the artifact is whole and before the study knows. In this process: nothing cleans up."""

    class Killed(BaseException):
        pass

    from searchkit.search.trial_lifecycle import Lifecycle

    real, count = Lifecycle.tell, [0]

    def tell(self: Any, trial: Any, artifact: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            if target == "tell":
                real(self, trial, artifact)
            raise Killed
        real(self, trial, artifact)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Lifecycle, "tell", tell)
        search_driver.go(tmp_path, "inline")
    before = [row for row in Run.open(tmp_path / "run").lines("search.jsonl") if row["event"] == "dispatch"]
    run = search_driver.go(tmp_path, "inline")
    after = [row for row in run.lines("search.jsonl") if row["event"] == "dispatch"][len(before) :]
    assert 2 not in {row["trial"] for row in after}
    assert outcome(run) == straight


def test_a_killed_worker_process_costs_nothing(tmp_path: Path, straight: list[Any]) -> None:
    coordinator = start(tmp_path, "processes")
    log = tmp_path / "run" / "search.jsonl"
    kills = 0
    while coordinator.poll() is None and kills < 1:
        dispatched = log.read_text().count('"dispatch"') if log.exists() else 0
        if dispatched >= 3:
            for worker in children(coordinator.pid):
                os.kill(worker, signal.SIGKILL)
                kills += 1
            time.sleep(0.2)
        time.sleep(0.02)
    assert coordinator.wait(timeout=120) == 0
    assert kills >= 1
    run = Run.open(tmp_path / "run")
    assert outcome(run) == straight


def children(pid: int) -> list[int]:
    """The workers of a coordinator, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_torn_line_of_the_log_is_survived(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "run", {})
    run.append_line("search.jsonl", {"event": "dispatch", "space": "cnn", "trial": 1, "rung": 0})
    with open(run.path / "search.jsonl", "ab") as handle:
        handle.write(b'{"event": "trained", "tri')
    run.append_line("search.jsonl", {"event": "dispatch", "space": "cnn", "trial": 2, "rung": 0})
    assert [row["trial"] for row in run.lines("search.jsonl")] == [1, 2]


def test_a_state_survives_its_journey(tmp_path: Path) -> None:
    import torch

    from searchkit.core.state import decode_state, encode_state
    from searchkit.core.training import TrainState

    numbers = {"curve": [{"epoch": 1, "loss": 0.1 + 0.2}], "best": None}
    state = TrainState(3, {"weights.a": torch.randn(3, 2), "optimizer.0.step": torch.tensor(7.0)}, numbers)
    back = decode_state(encode_state(state))
    assert back.epoch == 3 and back.numbers == state.numbers
    assert all(np.array_equal(back.tensors[k].numpy(), v.numpy()) for k, v in state.tensors.items())
    assert decode_state(b"").epoch == 0
