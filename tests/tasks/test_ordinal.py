"""Ordinal regression: ranks out of labels, probabilities that agree with one another, a run that ends in a bundle."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.task import HasBaselines
from searchkit.core.training import Training
from searchkit.data.summary import describe
from searchkit.tasks import registry
from searchkit.tasks.problems import ordinal
from searchkit.tasks.problems.ordinal import METRIC, OrdinalTask, Ranks
from searchkit.testing.tasks import TASK_CHECKS

ROOT = Path(__file__).parents[2]
VERIFY = ROOT / "searchkit/stages/bundle/verify.py"
X = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)


def diabetes(path: Path) -> dict[str, JSON]:
    """scikit-learn's diabetes with the progression in five grades of equal share, as a table."""
    found = load_diabetes()
    grades = np.searchsorted(np.quantile(found.target, [0.2, 0.4, 0.6, 0.8]), found.target) + 1
    rows = (",".join([*(f"{value:.6g}" for value in row), str(g)]) for row, g in zip(found.data, grades, strict=True))
    path.write_text("\n".join([",".join([*found.feature_names, "grade"]), *rows]) + "\n")
    return {"data": str(path), "target": "grade", "kind": "ordinal"}


def archive(path: Path, y: np.ndarray, x: np.ndarray = X) -> dict[str, JSON]:
    np.savez(path, x=x, y=y)
    return {"data": str(path), "kind": "ordinal"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> OrdinalTask:
    made = registry.load(diabetes(tmp_path_factory.mktemp("data") / "diabetes.csv"))
    assert isinstance(made, OrdinalTask)
    return made


@pytest.mark.parametrize("check", TASK_CHECKS)
def test_an_ordinal_task_conforms(task: OrdinalTask, check: str) -> None:
    TASK_CHECKS[check](task)


def test_a_packed_task_keeps_its_baselines_and_answers(task: OrdinalTask) -> None:
    other = registry.unpack(*task.pack())
    assert isinstance(other, OrdinalTask) and other.answers == task.answers


# ── Ranks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_ranked_by_the_numbers_that_they_begin_with(tmp_path: Path) -> None:
    labels = np.array(["10 most", "2 some", "-1 none", "2.5 more"])
    task = registry.load(archive(tmp_path / "a.npz", labels[np.arange(120) % 4]))
    assert task.labels == ("-1 none", "2 some", "2.5 more", "10 most")
    rows = task.splits()["train"]
    assert np.array_equal(task.data.target_of("train"), np.array([3, 1, 0, 2])[rows % 4])


def test_whole_numbers_are_ranked_by_their_values(tmp_path: Path) -> None:
    """As numbers, so that 10 is above 9; also if a table holds them as 3.0."""
    task = registry.load(archive(tmp_path / "a.npz", np.array([9.0, 10.0, 2.0])[np.arange(120) % 3]))
    assert task.labels == ("2", "9", "10") and task.spec.outputs[0].shape == (2,)
    assert task.answers[0].shape == (3,) and task.answers[1].name == "expected_rank"
    assert describe(task.summary())["predicts"].startswith("one of 3 grades, in order: 2 (40), 9 (40), 10 (40)")


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.array(["low", "high"])[np.arange(120) % 2], "holds 'high', whose rank .* is not known; .* '1 low'"),
        (np.linspace(0, 1, 120) + 1, "holds 1.00840336, and ordinal needs whole numbers|holds 1.0084"),
        (np.arange(120) % 60, "has 60 different values, and ordinal takes 2 to 50"),
        (np.zeros(120, int), "has 1 different values"),
        (np.eye(3, dtype=int)[np.arange(120) % 3], "has 3 columns, and ordinal needs one"),
    ],
)
def test_a_target_without_ranks_is_refused(tmp_path: Path, y: np.ndarray, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as refused:
        registry.load(archive(tmp_path / "a.npz", y))
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


def test_ordinal_is_never_guessed(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.npz", np.arange(120) % 5)
    assert registry.load({"data": source["data"]}).problem == "classification"


# ── The model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_probabilities_follow_from_the_thresholds() -> None:
    """Of the chances .5, .8 and .25 to pass the first threshold, the second and the third."""
    logits = torch.logit(torch.tensor([[0.5, 0.8, 0.25]]))
    probabilities, expected = Ranks(4).postprocessor()(logits)
    assert probabilities[0].tolist() == pytest.approx([0.5, 0.1, 0.3, 0.1], abs=1e-6)
    assert float(expected) == pytest.approx(0.1 + 0.6 + 0.3, abs=1e-6)
    assert torch.allclose(ordinal.log_probabilities(logits).exp(), probabilities, atol=1e-6)


def test_the_loss_is_that_of_the_conditional_questions() -> None:
    """CORN: binary cross-entropy of each threshold over the examples that reach it, here summed, over the batch."""
    logits, truth = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 5
    problem = Ranks(5)
    by_hand = sum(
        F.binary_cross_entropy_with_logits(logits[reached, k], (truth[reached] > k).float(), reduction="sum")
        for k in range(4)
        for reached in [truth >= k]
    )
    assert float(problem.loss(logits, problem.encode_soft(truth, 0.0))) == pytest.approx(float(by_hand) / 32, rel=1e-5)
    smoothed = problem.encode_soft(truth[:1], 0.1)[0]
    assert smoothed.tolist() == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02])


def test_extreme_logits_keep_a_finite_loss() -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0]], requires_grad=True)
    problem = Ranks(4)
    loss = problem.loss(logits, problem.encode_soft(torch.tensor([3]), 0.0))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(200.0) and bool(logits.grad.isfinite().all())


def test_the_distillation_loss_is_a_divergence() -> None:
    problem, teacher = Ranks(3), torch.tensor([[1.0, -1.0]])
    student = torch.tensor([[0.0, 0.5]])
    wanted, given = (ordinal.log_probabilities(one / 2)[0] for one in (teacher, student))
    by_hand = 4 * float((wanted.exp() * (wanted - given)).sum())
    assert float(problem.distillation_loss(student, teacher, 2.0)) == pytest.approx(by_hand, rel=1e-5)


# ── The score ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_score_is_how_many_ranks_the_median_is_off() -> None:
    answers = np.array([[0.6, 0.4, 0, 0], [0.4, 0.2, 0, 0.4], [0, 0, 0.1, 0.9], [0.3, 0.3, 0.4, 0]])
    truth = np.array([0, 3, 1, 2])
    found = Ranks(4).score(answers, truth)
    assert found.decisions.tolist() == [0, 1, 3, 1] and found.scores.tolist() == [0, 2, 2, 1]
    assert found.metrics[METRIC] == 1.25 and found.metrics["accuracy"] == 0.25
    assert ordinal.median_ranks(np.array([[0.5, 0.5], [0.4999, 0.5001]])).tolist() == [0, 1]
    lost = Ranks(4).score(np.full((2, 4), np.nan), np.array([1, 3]))
    assert lost.decisions.tolist() == [-1, -1] and lost.scores.tolist() == [2, 3]


def test_kappa_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    truth, given = random.integers(0, 5, 200), random.integers(0, 5, 200)
    wanted = sk.cohen_kappa_score(truth, given, weights="quadratic")
    assert ordinal.quadratic_weighted_kappa(truth, given, 5) == pytest.approx(wanted)
    assert ordinal.quadratic_weighted_kappa(truth, truth, 5) == 1.0


def test_the_metric_of_the_bundle_is_the_score(task: OrdinalTask) -> None:
    """By labels as text, as whole numbers and as floats alike."""
    answers = np.random.default_rng(3).dirichlet(np.ones(5), task.n_examples("test"))
    truth = task.data.target_of("test")
    wanted = task.evaluate(lambda inputs: {"probabilities": answers}, "test").metrics[METRIC]
    labels = np.array(task.labels)[truth]
    for targets in (labels, labels.astype(int), labels.astype(float), labels.astype(bytes)):
        found = ordinal.mean_absolute_rank_error({"probabilities": answers}, targets, list(task.labels))
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("labels", "targets", "ranks"),
    [
        ("1 2 3 4 5", [1, 2], [0, 1]),
        ("1 2 3 4 5", [2.0, 5.0], [1, 4]),
        ("-1 0 1", [0, 1, -1], [1, 2, 0]),
        ("0 1", [True, False], [1, 0]),
        ("1 10 3+", [10, 1], [1, 0]),
        ("1low 2some 3most", [0, 2], [0, 2]),
        ("1low 2some 3most", ["3most", "1low"], [2, 0]),
        ("1 2 3 4 5", [0, 1], "'0' in y is no label of this model; its labels are 1, 2, 3, 4, 5"),
        ("1 2 3", [1.5], "'1.5' in y is no label"),
        ("1low 2most", [0, 1, 2], "'2' in y is no label"),
    ],
)
def test_the_labels_decide_what_a_number_means(labels: str, targets: list[object], ranks: list[int] | str) -> None:
    """In the metric of a bundle, and for classes in verify.py: never by the targets that happen to be there."""
    names, y = labels.split(), np.array(targets)
    as_indices = runpy.run_path(str(VERIFY), run_name="verify")["as_indices"]
    if isinstance(ranks, str):
        for refused in (lambda: ordinal.mean_absolute_rank_error({}, y, names), lambda: as_indices(y, names)):
            with pytest.raises(Exception, match=ranks):
                refused()
        return
    right = {"probabilities": np.eye(len(names))[ranks]}
    assert ordinal.mean_absolute_rank_error(right, y, names) == 0.0
    assert as_indices(y, names).tolist() == ranks


def test_baselines_are_the_median_and_regressions_that_beat_it(task: OrdinalTask) -> None:
    assert isinstance(task, HasBaselines)
    found = {name: task.evaluate(predict, "test") for name, predict in task.baselines().items()}
    constant, regressions = found["the median rank of train"], found["logistic regressions"]
    median = int(np.median(task.data.target_of("train")))
    assert set(constant.decisions.tolist()) == {median}
    assert regressions.metrics[METRIC] < 0.8 * constant.metrics[METRIC]


def test_ranks_of_pictures_have_one_baseline(tmp_path: Path) -> None:
    x = np.random.default_rng(4).integers(0, 255, (120, 8, 8), dtype=np.uint8)
    task = registry.load(archive(tmp_path / "a.npz", np.arange(120) % 3, x=x))
    assert isinstance(task, OrdinalTask) and list(task.baselines()) == ["the median rank of train"]
    batch = next(task.batches("train", Training(mixup=0.2, label_smoothing=0.1), seed=0, device="cpu"))
    assert batch.target.shape[1] == 3 and torch.allclose(batch.target.sum(1), torch.ones(len(batch.target)))


# ── From a table to a bundle ─────────────────────────────────────────────────────────────────────────────────────────


def test_from_a_table_to_a_bundle_that_verifies(tmp_path: Path, task: OrdinalTask) -> None:
    source = diabetes(tmp_path / "diabetes.csv")

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    told = python(
        str(ROOT / "cli.py"), "search", "--space", "mlp", "--data", str(source["data"]), "--target", "grade",
        "--problem", "ordinal",
        "--trials", "2", "--epochs", "2", "--recipe", "int8", "--executor", "inline", "--name", "graded",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    assert "one of 5 grades, in order" in told.stderr
    evidence = json.loads((tmp_path / "runs/graded/evidence.json").read_text())
    assert evidence["kind"] == "ranks" and evidence["prediction"]["row"] == "same rank"
    assert np.sum(evidence["errors"]["confusion"]) == evidence["n"] and len(evidence["rivals"]) == 2
    page = (tmp_path / "runs/graded/report/report.html").read_text()
    assert "Confusion matrix" in page and "same rank" in page and "logistic regressions" in page
    bundle = tmp_path / "runs/graded/bundle"
    assert {"metric.py", "model.onnx", "verify.py"} <= {file.name for file in bundle.iterdir()}
    truth = np.array(task.labels)[task.data.target_of("test")]
    np.savez(tmp_path / "test.npz", x=task.raw("test")["features"], y=truth)
    verified = python(str(bundle / "verify.py"), "--data", str(tmp_path / "test.npz"))
    assert verified.returncode == 0, verified.stdout
    value = evidence["models"][-1]["metric"]["value"]
    stated = re.search(rf"{METRIC} (\d\.\d+) on {evidence['n']} rows", verified.stdout)
    assert stated and float(stated[1]) == pytest.approx(value, abs=1e-3)
    np.savez(tmp_path / "ranks.npz", x=task.raw("test")["features"], y=task.data.target_of("test"))
    refused = python(str(bundle / "verify.py"), "--data", str(tmp_path / "ranks.npz"))
    assert refused.returncode == 1 and "'0' in y is no label of this model; its labels are 1, 2" in refused.stdout
    with open(bundle / "metric.py", "a") as file:
        file.write("\n")
    assert python(str(bundle / "verify.py")).returncode == 1
