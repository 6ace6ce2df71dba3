"""The run directory: whole or invisible, refused with a sentence where it is damaged, and free of pickles."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from searchkit import lifecycle
from searchkit.config.run import RunConfig
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.goal import Goal, Tolerance
from searchkit.core.serialization import digest, freeze, thaw
from searchkit.core.training import TrainState
from searchkit.run import Run
from searchkit.tasks import registry


def make(tmp_path: Path, name: str = "r") -> Run:
    return Run.create(tmp_path / "runs", name, {"seed": 3})


def artifact(id: str = "a" * 12, **changes: object) -> Artifact:
    plain = {"id": id, "space": "mlp", "arch": {"depth": 1}, "training": {}, "edits": (), "parent": None}
    return Artifact(**{**plain, "made_by": {"stage": "Trial", "number": 0}, **changes})


def test_an_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = make(tmp_path)
    weights = {"w": torch.arange(6.0).reshape(2, 3), "shared": torch.ones(4)[:2]}
    draft = artifact(edits=({"cut": "0", "side": "out", "drop": [1]},), metrics={"accuracy": 0.5})
    saved = run.save(draft, weights=weights, scores=np.array([1.0, 0.0]), log=[{"epoch": 1}, {"epoch": 2}])
    again = Run.open(run.path).load(draft.id)
    assert again == saved
    assert again.edits == draft.edits
    assert all(torch.equal(run.weights(again)[k], v) for k, v in weights.items())
    assert run.scores(again).tolist() == [1.0, 0.0]
    assert [row["epoch"] for row in run.log(again)] == [1, 2]


def test_a_row_of_a_learning_curve_may_hold_any_character(tmp_path: Path) -> None:
    run, log = make(tmp_path), [{"epoch": 1, "candidate": "a\u2028b"}, {"epoch": 2, "candidate": "größer"}]
    saved = run.save(artifact(), log=log)
    assert (run.artifact_dir(saved.id) / "log.jsonl").read_bytes().count("größer".encode()) == 1
    assert run.log(saved) == log


def test_what_was_not_finished_is_invisible(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.save(artifact(), weights={"w": torch.ones(1)})
    (run.artifact_dir("a" * 12) / "artifact.json").unlink()
    assert run.artifacts() == {} and not run.has("a" * 12)


@pytest.mark.parametrize("at", ["searchkit.run.snapshot", "shutil.copyfile", "numpy.save", "searchkit.run.to_json"])
def test_an_artifact_that_is_written_again_is_invisible_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A kill at any of its files: what they held before, or half of it, is not taken for the new ones."""

    class Killed(BaseException):
        pass

    def kill(*args: object, **kwargs: object) -> None:
        (folder / "model.onnx").write_bytes(b"cut")
        raise Killed

    run, model = make(tmp_path), tmp_path / "model.onnx"
    model.write_bytes(b"whole")
    files = {"weights": {"w": torch.ones(1)}, "model": model, "scores": np.ones(2), "log": [{"epoch": 1}]}
    saved = run.save(artifact(), **files)
    folder = run.artifact_dir(saved.id)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(at, kill)
        run.save(artifact(), **files)
    assert run.artifacts() == {} and not run.has(saved.id)
    assert run.save(artifact(), **files) == run.load(saved.id) == saved
    assert run.file(saved, "model").read_bytes() == b"whole"


def test_an_existing_name_is_refused_and_untouched(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(BadInput, match="A run named 'r' exists .* --resume r"):
        make(tmp_path)
    assert (run.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_is_one_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is not a name for a run"):
        make(tmp_path, name)


@pytest.mark.parametrize("keep", [0.0, 0.5])
@pytest.mark.parametrize("file", ["run.json", "artifacts/aaaaaaaaaaaa/artifact.json"])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, file: str, keep: float) -> None:
    run = make(tmp_path)
    run.save(artifact(), weights={"w": torch.ones(1)})
    path = run.path / file
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BadInput, match="is damaged"):
        Run.open(run.path).artifacts()


def test_truncated_weights_and_states_are_one_sentence(tmp_path: Path) -> None:
    run = make(tmp_path)
    saved = run.save(artifact(), weights={"w": torch.ones(100)})
    run.save_state("0", TrainState(1, {"weights.w": torch.ones(100)}, {"curve": []}))
    for path in (run.file(saved, "weights"), run.path / "rungs" / "0.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be read"):
        run.weights(saved)
    with pytest.raises(BadInput, match="cannot be read"):
        run.load_state("0")


def test_splits_are_kept_with_the_run(tmp_path: Path) -> None:
    splits = {"train": np.array([0, 3, 4]), "val": np.array([1]), "test": np.array([2])}
    run = Run.create(tmp_path / "runs", "r", {}, splits=splits)
    again = Run.open(run.path).splits()
    assert {split: rows.tolist() for split, rows in again.items()} == {"train": [0, 3, 4], "val": [1], "test": [2]}
    assert make(tmp_path, "without").splits() == {}
    file = run.path / "splits.npz"
    whole = file.read_bytes()
    for size in (0, len(whole) // 2):
        file.write_bytes(whole[:size])
        with pytest.raises(BadInput, match="splits.npz cannot be read .* start a new run"):
            run.splits()


@pytest.mark.parametrize(("change", "said"), [({"split_seed": 1}, "splits are others"), ({}, "the values are not")])
def test_other_data_than_a_run_began_with_are_refused(tmp_path: Path, change: dict[str, int], said: str) -> None:
    task = registry.load({"task": "wine"})
    config = RunConfig.from_options(space="mlp", task="wine")
    run = lifecycle.start(config, task, root=tmp_path, name="r", command=[])
    assert lifecycle.reopen(Run.open(run.path), registry.load({"task": "wine"})).data == config.data
    words, arrays = registry.load({"task": "wine", **change}).pack()
    changed = arrays if change else {**arrays, "input.features": arrays["input.features"] + 1}
    with pytest.raises(BadInput, match=said):
        lifecycle.reopen(run, registry.unpack(words, changed))


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_scores_and_curves_are_one_sentence(tmp_path: Path, keep: float) -> None:
    run = make(tmp_path)
    saved = run.save(artifact(), scores=np.ones(9), log=[{"epoch": 1, "loss": 0.5}])
    for role in ("scores", "log"):
        path = run.file(saved, role)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BadInput, match="scores.npy cannot be read .* resume the run"):
        run.scores(saved)
    with pytest.raises(BadInput, match="log.jsonl cannot be read .* resume the run"):
        run.log(saved)


def test_another_format_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path)
    config = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(BadInput, match="has format 99; this version reads format 1"):
        Run.open(run.path)


def test_a_missing_run_names_those_that_there_are(tmp_path: Path) -> None:
    run = make(tmp_path, "first")
    with pytest.raises(BadInput, match="No run named 'second' .* the runs there are first"):
        Run.open(run.path.parent / "second")


def test_a_torn_last_line_costs_itself_only(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.append_line("log.jsonl", {"n": 1})
    with open(run.path / "log.jsonl", "ab") as file:
        file.write(b'{"n": 2, "tor')
    run.append_line("log.jsonl", {"n": 3})
    assert [row["n"] for row in run.lines("log.jsonl")] == [1, 3]


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    run = make(tmp_path)
    state = TrainState(
        4, {"weights.w": torch.randn(3, 2), "optimizer.0.step": torch.tensor(7.0)}, {"curve": [{"loss": 0.1}]}
    )
    run.save_state("3-1", state)
    again = run.load_state("3-1")
    assert again is not None and again.epoch == 4 and again.numbers == state.numbers
    assert all(torch.equal(again.tensors[k], v) for k, v in state.tensors.items())
    run.drop_state("3-1")
    assert run.load_state("3-1") is None


def test_one_process_writes_a_run_at_a_time(tmp_path: Path) -> None:
    run = make(tmp_path)
    opened = f"Run.open(Path({str(run.path)!r}))"
    other = f"from pathlib import Path; from searchkit.run import Run\nwith {opened}.locked(): pass"
    with run.locked():
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()}" in done.stderr
    assert subprocess.run([sys.executable, "-c", other], check=False).returncode == 0


def test_no_pickle_is_written(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.save(artifact(), weights={"w": torch.ones(3)}, scores=np.ones(2), log=[{}])
    run.save_state("0", TrainState(1, {"weights.w": torch.ones(3)}))
    for path in run.path.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04")), path


def test_json_keeps_what_a_dataclass_held() -> None:
    from searchkit.core.training import Training

    training = Training(augment=("crop", "flip"), lr=1e-3)
    assert thaw(Training, json.loads(json.dumps(freeze(training)))) == training
    with pytest.raises(BadInput, match="Training has no field 'learning'"):
        thaw(Training, {"learning": 1})


def test_a_digest_depends_on_values_not_on_order_or_tuples() -> None:
    assert digest({"a": (1, 2), "b": 1}) == digest({"b": 1, "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_tolerance_lets_through_what_the_examples_cannot_tell() -> None:
    tolerance = Tolerance(Goal("accuracy", "maximize"), max_drop=0.005)
    before = np.array([1.0] * 95 + [0.0] * 5)
    one_wrong = before.copy()
    one_wrong[0] = 0.0  # a drop of .01 with a standard error of .00995
    swapped = one_wrong.copy()
    swapped[[96, 1]] = 1.0, 0.0  # three pairs differ: a drop of .01 and a standard error of .017
    assert not tolerance.admits_in_pairs(one_wrong, before)
    assert tolerance.admits_in_pairs(swapped, before)
    assert tolerance.admits_in_pairs(before, one_wrong), "better is as good"
    error = Tolerance(Goal("rmse", "minimize", root=True), max_rise=0.02)
    squares = np.full(100, 4.0)
    assert error.admits_in_pairs(squares * 1.03, squares) and not error.admits_in_pairs(squares * 1.1, squares)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", [Goal("accuracy", "maximize"), Goal("mse", "minimize")])
def test_a_value_that_is_not_finite_is_worse_than_any_other(goal: Goal, value: float) -> None:
    assert goal.loss(value) == math.inf
    assert goal.better(-1e9, value) and goal.better(1e9, value)
    assert not any(goal.better(value, other) for other in (-1e9, 1e9, math.nan, value))
    assert min([value, 0.5], key=goal.loss) == 0.5
    assert not Tolerance(goal).admits(value, 0.5, error=math.inf)
