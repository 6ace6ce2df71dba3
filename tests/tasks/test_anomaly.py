"""Tasks of anomalies: what is held out, the area under the ROC curve as a mean, and the score that the bundle gives."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.goal import Goal
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.evaluation.statistics import agreement, metric_interval, paired_difference
from searchkit.onnx.predictor import OnnxPredictor
from searchkit.run import Run
from searchkit.stages.export import Export
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry
from searchkit.tasks.metrics import roc_components

AUC = Goal("roc_auc", "maximize", most=1.0)
SPACE = load_space(Path(__file__).parents[2] / "spaces" / "autoencoder.py")


# ── The metric ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 80), st.integers(0, 1000))
def test_the_mean_of_the_components_is_the_area(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive = generator.integers(0, 2, n).astype(bool)
    scores = generator.integers(0, 8, n) / 8  # with ties
    wanted = sk.roc_auc_score(positive, scores) if 0 < positive.sum() < n else 0.5
    assert roc_components(positive, scores).mean() == pytest.approx(wanted)


def test_the_spread_of_the_components_is_that_of_the_area() -> None:
    """Against the spread over fresh samples; 30 of 330 are positive, as anomalies are few."""
    generator = np.random.default_rng(0)
    positive = np.arange(330) < 30

    def sample() -> np.ndarray:
        return roc_components(positive, generator.normal(size=330) + positive)

    drawn = [sample() for _ in range(800)]
    spread = np.std([one.mean() for one in drawn])
    stated = np.mean([one.std() / np.sqrt(330) for one in drawn])
    assert stated == pytest.approx(spread, rel=0.1)


def test_intervals_stay_below_one_and_pairs_see_what_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    positive = np.arange(200) < 40
    scores = generator.normal(size=200) + 2.5 * positive
    components = roc_components(positive, scores)
    found = metric_interval(AUC, components)
    assert components.max() > 1 or components.min() < 0
    assert found.low < found.value < found.high <= 1
    worse = roc_components(positive, scores - 0.3 * positive)
    pairs = paired_difference(AUC, components, worse)
    assert pairs.better and metric_interval(AUC, worse).high > found.low


# ── Holding out ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_anomaly_is_trained_on_and_every_one_is_judged() -> None:
    task, plain = registry.load({"task": "digits", "anomaly": "3,8"}), registry.load({"task": "digits"})
    rows, classes = task.splits(), plain.data.target
    assert not np.isin(classes[rows["train"]], (3, 8)).any()
    judged = np.concatenate([rows["val"], rows["test"]])
    assert np.isin(classes[judged], (3, 8)).sum() == np.isin(classes, (3, 8)).sum()
    for split in ("val", "test"):
        assert np.array_equal(task.data.target_of(split), np.isin(classes[rows[split]], (3, 8)))
    normal = {split: plain.splits()[split][~np.isin(classes[plain.splits()[split]], (3, 8))] for split in rows}
    for split in rows:  # the normal rows are where they are without an anomaly
        assert np.isin(normal[split], rows[split]).all()
    assert task.labels == ("normal", "anomaly (3, 8)") and task.summary()["kind"] == "anomaly"


def test_a_given_test_split_is_kept(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"x_train": generator.normal(size=(80, 5)), "y_train": np.arange(80) % 4}
    given_test = {"x_test": generator.normal(size=(24, 5)), "y_test": np.arange(24) % 4}
    np.savez(tmp_path / "a.npz", **arrays, **given_test)
    task = registry.load({"data": str(tmp_path / "a.npz"), "anomaly": "2"})
    assert task.n_examples("test") == 24 and task.data.target_of("test").sum() == 6
    assert task.data.target_of("val").sum() == 20 and task.data.target_of("train").sum() == 0


def test_the_score_does_not_depend_on_the_unit_of_a_column(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(90, 4)), np.array(["ok", "ok", "bad"] * 30)
    areas = []
    for name, scale in (("a", 1.0), ("b", np.array([1.0, 1000.0, 0.01, 1.0]))):
        np.savez(tmp_path / f"{name}.npz", x=x * scale, y=y)
        task = registry.load({"data": str(tmp_path / f"{name}.npz"), "anomaly": "bad"})
        net = torch.nn.Linear(4, 4)
        torch.nn.init.zeros_(net.weight)
        torch.nn.init.zeros_(net.bias)
        answer, scaled = task.postprocessor(), task.preprocessor()(torch.from_numpy(task.raw("test")["features"]))
        rebuilt, score = answer.compare(net(scaled), scaled)
        assert torch.allclose(score, scaled.square().mean(1))
        assert rebuilt.shape == scaled.shape
        areas.append(sk.roc_auc_score(task.data.target_of("test"), score.detach().numpy()))
    assert areas[0] == pytest.approx(areas[1], abs=1e-3)


def test_a_score_that_is_no_number_is_wrong_either_way() -> None:
    task = registry.load({"task": "digits-anomaly"})
    n = task.n_examples("val")

    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["image"])
        return {"reconstruction": np.zeros((rows, 8, 8), np.float32), "score": np.full(rows, np.nan, np.float32)}

    found = task.evaluate(broken, "val")
    assert found.metrics["roc_auc"] == 0 and found.metrics["recall"] == 0 and len(found.scores) == n


# ── The line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    torch.manual_seed(0)
    task = registry.load({"task": "digits-anomaly"})
    run = Run.create(tmp_path_factory.mktemp("runs"), "anomaly", {})
    ctx = Context(run, task, lambda name: SPACE, echo=lambda text: None)
    arch, training = SPACE.arch(widths=(128,), code=12), Training(epochs=6, lr=3e-3)
    net = SPACE.build(arch, task.spec)
    task.fit(net, FitPlan(training, seed=0, until=6), TrainState())
    draft = Artifact("trial", "autoencoder", freeze(arch), freeze(training), (), {"stage": "Trial", "number": 0}, None)
    trial = run.save(draft, weights=net.state_dict(), log=[])
    fp32 = Promote()(trial, ctx)
    pruned = Prune(to=0.6, steps=1, recovery_epochs=1, round_to=1)(fp32, ctx)
    quantized = Quantize(max_drop=1.0)(pruned, ctx)
    exported = Export()(quantized, ctx)
    return SimpleNamespace(ctx=ctx, task=task, fp32=fp32, pruned=pruned, quantized=quantized, exported=exported)


def test_every_stage_is_judged_by_the_area(line: SimpleNamespace) -> None:
    for artifact in (line.fp32, line.pruned, line.quantized, line.exported):
        assert 0.6 < artifact.metrics["roc_auc"] <= 1
    assert line.pruned.metrics["params"] < line.fp32.metrics["params"]
    assert line.quantized.metrics["size_bytes"] < line.pruned.metrics["size_bytes"]


def test_the_score_of_the_file_is_the_error_of_its_reconstruction(line: SimpleNamespace) -> None:
    answered = OnnxPredictor(line.ctx.run.bundle / "model.onnx")(line.task.raw("test"))
    preprocessor = line.task.preprocessor()
    x, rebuilt = (
        preprocessor(torch.from_numpy(v)) for v in (line.task.raw("test")["image"], answered["reconstruction"])
    )
    wanted = (x - rebuilt).square().flatten(1).mean(1).numpy()
    np.testing.assert_allclose(answered["score"], wanted, rtol=1e-3, atol=1e-4)


def test_the_threshold_lets_one_normal_val_example_in_twenty_through(line: SimpleNamespace) -> None:
    manifest = json.loads((line.ctx.run.bundle / "manifest.json").read_text())
    calibration = manifest["calibration"]
    scores = OnnxPredictor(line.ctx.run.bundle / "model.onnx")(line.task.raw("val"))["score"]
    normal = scores[line.task.data.target_of("val") == 0]
    assert np.mean(normal > calibration["threshold"]) <= 0.05 < np.mean(normal >= calibration["threshold"])
    assert calibration["above"] == "anomaly (9)" and calibration["output"] == "score"
    assert "Where `score` is above" in (line.ctx.run.bundle / "README.md").read_text()


def test_decisions_are_compared_as_classes(line: SimpleNamespace) -> None:
    from searchkit.tasks.registry import problem_named

    own, other = (
        line.task.evaluate(OnnxPredictor(line.ctx.model_path(artifact)), "test")
        for artifact in (line.quantized, line.pruned)
    )
    prediction = problem_named(line.task.problem).prediction
    assert prediction.name == "classes"
    assert agreement(own.decisions, other.decisions, prediction, targets=own.targets).value > 0.9
    assert own.metrics["recall"] == np.mean(own.decisions[own.targets == 1])


def test_the_bundle_scores_as_it_was_measured(line: SimpleNamespace, tmp_path: Path) -> None:
    """run.py and verify.py, without PyTorch, against the evaluation of the shipped file."""
    bundle, task = line.ctx.run.bundle, line.task
    truth = task.evaluate(OnnxPredictor(bundle / "model.onnx"), "test")
    np.savez(tmp_path / "mine.npz", image=task.raw("test")["image"], y=truth.targets)

    def run(script: str, *words: str) -> str:
        command = [sys.executable, "-I", str(bundle / script), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout

    rows = [json.loads(text) for text in run("run.py", str(tmp_path / "mine.npz"), "--json").splitlines()]
    assert [row["label"] for row in rows] == [task.labels[k] for k in truth.decisions]
    area = sk.roc_auc_score(truth.targets, [row["score"] for row in rows])
    assert area == pytest.approx(truth.metrics["roc_auc"], abs=1e-9)
    assert len(run("run.py").splitlines()) == 8
    assert f"roc_auc {truth.metrics['roc_auc']:.4f} on {len(rows)} rows" in run(
        "verify.py", "--data", str(tmp_path / "mine.npz")
    )


def test_the_bundle_refuses_rows_of_another_shape(line: SimpleNamespace, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", image=np.zeros((3, 5), np.uint8))
    command = [sys.executable, "-I", str(line.ctx.run.bundle / "run.py"), str(tmp_path / "mine.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 2 and "the model takes [8, 8]" in done.stderr and "Traceback" not in done.stderr
