"""The parts of the evidence by hand: which statistics a task gets, and what the report's pictures of errors hold."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.goal import Evaluation, Goal
from searchkit.evaluation import evidence
from searchkit.evaluation.statistics import agreement, mcnemar, metric_interval, paired_difference
from searchkit.tasks.predictions import ACTIONS, CLASSES, FORECAST, LABELS, RECONSTRUCTION, VALUES, points
from searchkit.tasks.registry import problem_named

ACCURACY = Goal("accuracy", "maximize")


def made(decisions: Any, targets: Any = None, scores: Any = None) -> Evaluation:
    decisions = np.asarray(decisions)
    targets = decisions if targets is None else np.asarray(targets)
    return Evaluation({}, np.zeros(len(decisions)) if scores is None else np.asarray(scores), decisions, targets)


FORMS = {
    "classification": "classes", "multilabel": "classes", "regression": "values", "reconstruction": "reconstruction",
    "denoising": "reconstruction", "forecasting": "forecast", "language": "steps", "transcription": "steps",
    "translation": "steps", "generation": "generation", "restyling": "generation", "control": "actions",
    "anomaly": "classes",
}  # fmt: skip


@pytest.mark.parametrize(("problem", "form"), FORMS.items())
def test_a_problem_says_how_its_answers_are_compared(problem: str, form: str) -> None:
    assert problem_named(problem).prediction.name == form


def test_a_file_is_compared_with_the_reference_in_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 80)
    own, reference = (np.where(rng.random(80) < share, truth, (truth + 1) % 3) for share in (0.9, 0.7))
    mine, theirs = (made(d, truth, (d == truth).astype(float)) for d in (own, reference))
    found = evidence._compare(ACCURACY, CLASSES, mine, theirs, 7, None)
    assert found["metric"] == metric_interval(ACCURACY, mine.scores, seed=7)
    assert found["difference"] == paired_difference(ACCURACY, mine.scores, theirs.scores, seed=7)
    assert found["difference"].value > 0
    assert found["mcnemar"] == mcnemar(own == truth, reference == truth)
    assert found["agreement"] == agreement(own, reference, CLASSES, targets=truth)
    assert evidence._compare(ACCURACY, ACTIONS, mine, theirs, 7, None)["mcnemar"] is None
    soft = made(own, truth, mine.scores / 2)
    assert evidence._compare(ACCURACY, CLASSES, soft, theirs, 7, None)["mcnemar"] is None
    groups = np.arange(80) // 4
    grouped = evidence._compare(ACCURACY, CLASSES, mine, theirs, 7, groups)
    assert {grouped[name].method for name in ("metric", "difference", "agreement")} == {"bca of groups"}


def test_what_needs_no_network_is_compared_with_the_shipped_file() -> None:
    goal = Goal("mse", "minimize")
    scores = np.random.default_rng(1).gamma(1.0, size=50)
    chosen, naive = made(scores, scores=scores), Evaluation({"mse": 2.0}, scores + 1.0, scores, scores)
    found = evidence._baseline(goal, "naive", naive, chosen, 3, None)
    assert found.metrics == {"mse": 2.0} and found.metric == metric_interval(goal, scores + 1.0, seed=3)
    assert found.name == "naive" and found.difference.value == pytest.approx(-1.0) and found.difference.better is True


def test_the_confusion_has_the_truth_in_its_rows() -> None:
    found = CLASSES.errors(made([1, 2, 2, -1, 0], [0, 2, 2, 1, 0]), {})
    assert found == {"confusion": [[1, 1, 0], [0, 0, 0], [0, 0, 2]], "unanswered": 1}
    assert CLASSES.errors(made([3], [0]), {})["confusion"] == [[0, 0, 0, 1], *[[0, 0, 0, 0]] * 3]


def test_points_are_thinned_evenly_and_rounded_for_each_target() -> None:
    truth = np.stack([np.arange(11.0), np.arange(11.0) * 10], axis=1)
    found = points(made(truth + 1 / 3, truth), {}, most=3)["points"]
    assert found[0] == [[0.0, 0.333333], [5.0, 5.33333], [10.0, 10.3333]]
    assert found[1] == [[0.0, 0.333333], [50.0, 50.3333], [100.0, 100.333]]
    assert len(VALUES.errors(made(truth, truth), {})["points"][0]) == 11


def test_a_forecasts_errors_are_those_of_each_step_beside_those_of_the_rivals() -> None:
    targets = np.zeros((2, 2, 3))  # two windows, two channels, three steps
    answers = targets + np.array([1.0, 2.0, 3.0])
    answers[0, 0, 0] = 3.0
    beside = {"the last value": made(targets + 1.0, targets)}
    found = FORECAST.errors(made(answers, targets), beside)
    assert found == {"by_step": {"the network": [3.0, 4.0, 9.0], "the last value": [1.0, 1.0, 1.0]}}


@pytest.mark.parametrize(("n", "bins"), [(10, 5), (100, 10), (290, 29), (1000, 30)])
def test_a_histogram_has_a_bin_for_ten_examples_five_to_thirty(n: int, bins: int) -> None:
    scores = np.linspace(0.0, 1.0, n)
    found = RECONSTRUCTION.errors(made(scores, scores=scores), {})
    assert len(found["histogram"]) == bins == len(found["edges"]) - 1 and sum(found["histogram"]) == n
    assert (found["edges"][0], found["edges"][-1]) == (0.0, 1.0)


def test_labels_are_counted_each() -> None:
    found = LABELS.errors(made([[1, 0], [1, 1], [0, 1]], [[1, 1], [0, 1], [0, 1]]), {})
    assert found == {"labels": {"hit": [1, 2], "missed": [0, 1], "false_alarm": [1, 0]}}


def test_bytes_of_a_picture_run_from_the_least_to_the_most_and_large_ones_are_thinned() -> None:
    values = np.array([[[0.0, 1.0], [2.0, np.nan]]])
    shown = evidence._as_bytes(values, 0.0, 4.0)
    assert shown.shape == (1, 2, 2, 1) and shown.reshape(-1).tolist() == [0, 64, 128, 0]
    assert evidence._as_bytes(values + 10, 0.0, 4.0).reshape(-1).tolist() == [255, 255, 255, 0]
    assert evidence._as_bytes(np.zeros((1, 1, 128, 128)), 0.0, 1.0).shape == (1, 64, 64, 1)
    assert evidence._as_bytes(np.zeros((1, 1, 129, 20)), 0.0, 1.0).shape == (1, 43, 7, 1)
    assert evidence._as_bytes(np.zeros((1, 64, 64, 4)), 0.0, 1.0).shape == (1, 64, 64, 3)
    colored = np.zeros((1, 3, 8, 6))
    colored[0, 2, 5, 1] = 1.0
    assert evidence._as_bytes(colored, 0.0, 1.0)[0, 5, 1].tolist() == [0, 0, 255]


def test_the_pictures_of_a_translation_between_pictures_show_what_was_given() -> None:
    images = np.random.default_rng(0).random((30, 1, 8, 8))
    spec = DataSpec("image", (TensorSpec("image", (1, 8, 8)),), (TensorSpec("sample", (1, 8, 8)),))
    task: Any = SimpleNamespace(
        inputs=spec.inputs,
        answers=(TensorSpec("image", (1, 8, 8)),),
        spec=spec,
        raw=lambda split: {"image": images + 100.0},
    )
    found = evidence.pictures(task, made(images), made(images + 0.1))
    assert list(found["rows"]) == ["given", "real, of test", "fp32 winner", "shipped"]
    assert found["shape"] == [12, 8, 8, 1]
    given = np.frombuffer(base64.b64decode(found["rows"]["given"]), np.uint8)
    assert given.min() < 10 and given.max() > 245, "what is given has a scale of its own"
    rebuilt = DataSpec("image", spec.inputs, (TensorSpec("reconstruction", (1, 8, 8)),))
    other: Any = SimpleNamespace(inputs=spec.inputs, answers=(TensorSpec("image", (1, 8, 8)),), spec=rebuilt)
    same = made(images)
    assert list(evidence.pictures(other, same, same)["rows"]) == ["given", "fp32 winner"]
    classes: Any = SimpleNamespace(inputs=spec.inputs, answers=(TensorSpec("probabilities", (3,)),), spec=rebuilt)
    assert evidence.pictures(classes, made([0, 1]), made([0, 1])) is None
