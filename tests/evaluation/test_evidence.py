"""The statistics of the evidence: known values, properties, and the coverage that the intervals promise."""

from __future__ import annotations

import base64
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.goal import Evaluation, Goal
from searchkit.evaluation import evidence, statistics
from searchkit.evaluation.evidence import pictures
from searchkit.evaluation.statistics import agreement, mcnemar, metric_interval, paired_difference, wilson
from searchkit.run import Run
from searchkit.stages import quantize
from searchkit.tasks import predictions
from searchkit.tasks.predictions import CLASSES, FORECAST, GENERATION, LABELS, RECONSTRUCTION, STEPS, VALUES

ACCURACY = Goal("accuracy", "maximize")
MSE = Goal("mse", "minimize")
RMSE = Goal("rmse", "minimize", root=True)


def test_wilson_equals_the_published_values():
    low, high = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0.0 and round(wilson(0, 20)[1], 4) == 0.1611
    assert wilson(20, 20)[1] == 1.0


def test_mcnemar_equals_the_binomial():
    a = np.array([True] * 9 + [False] * 2 + [True] * 50)
    b = np.array([False] * 9 + [True] * 2 + [True] * 50)
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (9, 2)
    assert result.p == pytest.approx(2 * sum(math.comb(11, k) for k in range(3)) / 2**11)
    assert mcnemar(a, a).p == 1.0
    assert mcnemar(b, a).p == result.p
    many = mcnemar(np.arange(10_000) < 4_000, np.arange(10_000) >= 4_000)  # integers do not overflow
    assert 0 < many.p < 1e-80


@pytest.mark.parametrize("goal", [MSE, RMSE])
def test_bootstrap_agrees_with_scipy(goal):
    from scipy.stats import bootstrap

    scores = np.random.default_rng(3).gamma(0.7, size=180)
    mine = metric_interval(goal, scores, seed=1)
    theirs = bootstrap(
        (scores,),
        lambda x, axis: np.sqrt(x.mean(axis)) if goal.root else x.mean(axis),
        n_resamples=10_000,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(mine.low - theirs.low) < 0.04 * width and abs(mine.high - theirs.high) < 0.04 * width
    assert mine.method == "bca" and mine.low < mine.value < mine.high


def test_drawing_counts_equals_drawing_examples(monkeypatch):
    scores = np.random.default_rng(0).integers(0, 5, size=300) / 4
    by_counts = statistics._bootstrap_means(scores, 0)
    noise = np.random.default_rng(1).normal(size=300) * 1e-9  # makes every score unique: the other road
    by_examples = statistics._bootstrap_means(scores + noise, 0)
    assert by_counts.mean() == pytest.approx(by_examples.mean(), abs=1e-3)
    assert by_counts.std() == pytest.approx(by_examples.std(), rel=0.03)
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    assert np.array_equal(statistics._bootstrap_means(scores + noise, 0), by_examples)  # chunks do not change the draw


def coverage(truth: float, draw, interval, repeats: int = 400) -> float:
    held = 0
    for seed in range(repeats):
        found = interval(*draw(np.random.default_rng(seed)))
        held += found.low <= truth <= found.high
    return held / repeats


def test_intervals_cover_what_they_promise(monkeypatch):
    """The binomial error of 400 repeats is about 1.1 points. Over 2,000 repeats BCa covers .94–.95 of these; of the
    root mean of 100 squared normal errors .93: a small test split makes it a little narrow."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    binary = coverage(0.95, lambda rng: (rng.random(200) < 0.95,), lambda s: metric_interval(ACCURACY, s))
    skewed = coverage(1.0, lambda rng: (rng.gamma(1.0, size=150),), lambda s: metric_interval(MSE, s))
    rooted = coverage(1.0, lambda rng: (rng.normal(size=300) ** 2,), lambda s: metric_interval(RMSE, s))
    assert 0.92 <= binary <= 0.99
    assert 0.92 <= skewed <= 0.985
    assert 0.92 <= rooted <= 0.985


@pytest.mark.parametrize("flip", [0.005, 0.02, 0.1])
def test_paired_differences_cover_what_they_promise(monkeypatch, flip):
    """b is right on .9; a differs on `flip` of the examples, at random: the true difference is −.8·flip."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)

    def draw(rng):
        b = rng.random(300) < 0.9
        return np.where(rng.random(300) < flip, ~b, b), b

    assert 0.92 <= coverage(-0.8 * flip, draw, lambda a, b: paired_difference(ACCURACY, a, b)) <= 1.0


def test_paired_root_differences_cover(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)

    def draw(rng):
        error = rng.normal(size=200)
        return (error + 0.3 * rng.normal(size=200)) ** 2, error**2

    assert 0.915 <= coverage(math.sqrt(1.09) - 1.0, draw, lambda a, b: paired_difference(RMSE, a, b)) <= 0.985


def test_pairs_see_what_two_intervals_cannot():
    rng = np.random.default_rng(0)
    b = rng.gamma(2.0, size=400)
    a = b + 0.05 + 0.01 * rng.normal(size=400)
    apart = metric_interval(MSE, a), metric_interval(MSE, b)
    assert apart[0].low < apart[1].high  # they overlap
    pair = paired_difference(MSE, a, b)
    assert not pair.indistinguishable and pair.better is False and pair.low < 0.05 < pair.high
    assert paired_difference(MSE, b, a).better is True


def test_equal_models_are_indistinguishable_but_not_proved_equal():
    right = np.arange(100) < 97
    same = paired_difference(ACCURACY, right, right)
    assert same.value == 0.0 and same.indistinguishable and same.better is None
    assert same.low < -0.01 and same.high > 0.01  # 100 examples cannot show less than a point or two
    flat = metric_interval(MSE, np.full(10, 0.5))
    assert (flat.low, flat.value, flat.high) == (0.5, 0.5, 0.5)


def test_seeds_decide():
    scores = np.random.default_rng(0).random(200)
    assert metric_interval(MSE, scores, seed=4) == metric_interval(MSE, scores, seed=4)
    assert metric_interval(MSE, scores, seed=4) != metric_interval(MSE, scores, seed=5)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="one number an example"):
        metric_interval(MSE, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one number an example"):
        metric_interval(MSE, np.zeros(0))
    with pytest.raises(ValueError, match="pairs need"):
        paired_difference(MSE, np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="one shape"):
        agreement(np.zeros(3), np.zeros(4), CLASSES, targets=np.zeros(3))


def test_agreement_by_kind():
    targets = np.array([0.0, 10.0, 20.0, 30.0])
    reference = targets + np.array([2.0, -2.0, 2.0, -2.0])  # its root mean squared error is 2
    near = agreement(reference + np.array([0.0, 1.9, -1.9, 2.1]), reference, VALUES, targets=targets)
    assert near.value == 0.75 and near.low < 0.75 < near.high and near.n == 4
    assert agreement(np.array([1, 2, 3]), np.array([1, 2, 0]), CLASSES, targets=np.zeros(3)).value == 2 / 3
    labels = np.array([[1, 0], [1, 1]])
    assert agreement(labels, np.array([[1, 0], [1, 0]]), CLASSES, targets=labels).value == 0.5
    units = np.array([[0.0, 0.0], [1.0, 1000.0]])  # each target in its own unit
    assert agreement(units + [0.0, 90.0], units, VALUES, targets=units + [1.0, 100.0]).value == 1.0
    assert agreement(units + [2.0, 0.0], units, VALUES, targets=units + [1.0, 100.0]).value == 0.0
    images = np.random.default_rng(0).random((6, 1, 4, 4))
    drawn, one_pixel = images + 0.1, images + 0.1
    one_pixel[:, 0, 0, 0] += 0.3  # RMS over 16 pixels: .075, and drawn errs by .1
    assert agreement(one_pixel, drawn, RECONSTRUCTION, targets=images).value == 1.0
    assert agreement(drawn + 0.11, drawn, RECONSTRUCTION, targets=images).value == 0.0
    perfect = agreement(images, images, RECONSTRUCTION, targets=images)
    assert perfect.value == 1.0 and agreement(drawn, images, RECONSTRUCTION, targets=images).value == 0.0
    rng = np.random.default_rng(1)  # as good in another way: errors of the same size that have nothing in common
    a, b = (images + 0.1 * rng.standard_normal(images.shape) for _ in range(2))
    assert agreement(a, b, RECONSTRUCTION, targets=images).value == 0.0
    mixed = images[[3, 0, 5, 1, 2, 4]]  # made of noise: no truth of its own, so the nearest example is what it errs by
    assert agreement(one_pixel, drawn, GENERATION, targets=mixed).value == 1.0
    assert agreement(drawn + 0.11, drawn, GENERATION, targets=mixed).value == 0.0


def test_a_step_whose_target_is_minus_one_is_no_step():
    """Of two answers of three steps and one, padded alike, three of four steps agree."""
    targets = np.array([[1, 2, 3], [4, -1, -1]])
    a, b = np.array([[1, 2, 0], [4, -1, -1]]), np.array([[1, 2, 3], [4, -1, -1]])
    assert agreement(a, b, STEPS, targets=targets).value == pytest.approx((2 / 3 + 1) / 2)
    one, other = (Evaluation({}, np.zeros(2), decisions, targets) for decisions in (a, b))
    assert quantize.agreement(one, other, pooled=False, by_step=True) == 0.75


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 2**31 - 1))
def test_intervals_hold_their_estimate(right, seed):
    scores = np.array(right, dtype=float)
    found = metric_interval(ACCURACY, scores, seed=seed)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    swapped = paired_difference(ACCURACY, scores, 1 - scores, seed=seed)
    assert swapped.low <= swapped.high and swapped.indistinguishable == (swapped.low <= 0 <= swapped.high)


def test_errors_are_plain_and_complete():
    truth, given = np.array([0, 1, 2, 2, 1]), np.array([0, 2, 2, 2, -1])
    scores = (truth == given).astype(float)
    found = CLASSES.errors(Evaluation({}, scores, given, truth), {})
    assert found == {"confusion": [[1, 0, 0], [0, 0, 1], [0, 0, 2]], "unanswered": 1}
    many = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [0, 1], [0, 0]])
    labels = LABELS.errors(Evaluation({}, scores, many[1], many[0]), {})["labels"]
    assert labels == {"hit": [1, 1], "missed": [1, 0], "false_alarm": [0, 1]}
    values = np.linspace(0, 1, 1000)
    points = predictions.points(Evaluation({}, values, values + 1, values), {}, most=100)["points"]
    assert len(points) == 1 and len(points[0]) == 100 and points[0][0] == [0.0, 1.0] and points[0][-1] == [1.0, 2.0]
    bins = RECONSTRUCTION.errors(Evaluation({}, values, values, values), {})
    assert sum(bins["histogram"]) == 1000 and len(bins["edges"]) == len(bins["histogram"]) + 1


def test_a_file_is_scored_once_and_a_changed_file_anew(tmp_path):
    run = Run.create(tmp_path, "kept", {})
    right = np.array([1.0, 0.0, 1.0])
    evaluation = Evaluation({"accuracy": 2 / 3}, right, np.array([1, 2, 3]), np.array([1, 0, 3]))
    assert evidence._kept(run, "a", "hash") is None
    evidence._keep(run, "a", "hash", evaluation)
    again = evidence._kept(run, "a", "hash")
    assert again is not None and again.metrics == evaluation.metrics
    assert np.array_equal(again.scores, right) and np.array_equal(again.decisions, evaluation.decisions)
    assert evidence._kept(run, "a", "another") is None
    whole = (run.path / "evidence" / "a.targets.npy").read_bytes()
    for left in (0, 5, len(whole) - 8):  # cut short: scored again, never a traceback
        (run.path / "evidence" / "a.targets.npy").write_bytes(whole[:left])
        assert evidence._kept(run, "a", "hash") is None
    (run.path / "evidence" / "a.targets.npy").unlink()
    assert evidence._kept(run, "a", "hash") is None
    assert not [p.name for p in (run.path / "evidence").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(("shape", "channels"), [((8, 6), 1), ((3, 8, 6), 3), ((8, 6, 4), 3), ((1, 200, 150), 1)])
def test_answers_that_are_pictures_are_shown(shape: tuple[int, ...], channels: int) -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(10, 20, (40, *shape)).astype(np.float32)
    real[0].flat[0], real[-1].flat[0] = 10, 19
    ours, shipped = (Evaluation({}, np.zeros(40), real + shift, real) for shift in (0.0, 100.0))
    spec = DataSpec("noise", (TensorSpec("noise", (4,)),), (TensorSpec("sample", (1, 8, 6)),))
    task: Any = SimpleNamespace(inputs=spec.inputs, answers=(TensorSpec("image", shape),), spec=spec)
    found = pictures(task, ours, shipped)
    assert list(found["rows"]) == ["real, of test", "fp32 winner", "shipped"]
    n, height, width, depth = found["shape"]
    assert (n, depth) == (12, channels) and (height, width) == (
        (8, 6) if channels == 3 or len(shape) == 2 else (50, 38)
    )
    given, drawn, last = (np.frombuffer(base64.b64decode(row), np.uint8) for row in found["rows"].values())
    assert given.size == n * height * width * depth and np.array_equal(given, drawn) and (last == 255).all()
    assert given[0] == 0 and 200 < given.max() <= 255
    broken = Evaluation({}, np.zeros(40), np.full_like(real, np.nan), real)
    assert set(base64.b64decode(pictures(task, broken, broken)["rows"]["fp32 winner"])) == {0}
    labels = Evaluation({}, np.zeros(40), np.arange(40), np.arange(40))
    assert pictures(task, labels, labels) is None
    sound: Any = SimpleNamespace(inputs=spec.inputs, answers=(TensorSpec("reconstruction", shape),), spec=spec)
    assert pictures(sound, ours, ours) is None


# ── Examples that hang together ──────────────────────────────────────────────────────────────────────────────────────


def overlapping(rng: np.random.Generator, n: int = 600, width: int = 12) -> np.ndarray:
    """Scores of windows that share steps: means over `width` neighbors of independent squared errors of mean 1."""
    errors = rng.normal(size=n + width - 1) ** 2
    return np.convolve(errors, np.full(width, 1 / width), mode="valid")


def test_blocks_cover_where_single_windows_do_not(monkeypatch):
    """Blocks of 24, of windows that share 12 steps: 25 groups. Alone, each window counts for what it does not tell."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    groups = np.arange(600) // 24

    def draw(rng):
        return (overlapping(rng),)

    by_blocks = coverage(1.0, draw, lambda s: metric_interval(MSE, s, groups=groups), repeats=300)
    by_windows = coverage(1.0, draw, lambda s: metric_interval(MSE, s), repeats=300)
    assert by_blocks > 0.86 and by_windows < 0.6
    differences = coverage(
        0.0, lambda rng: (overlapping(rng), overlapping(rng)),
        lambda a, b: paired_difference(MSE, a, b, groups=groups), repeats=300,
    )  # fmt: skip
    assert differences > 0.86


def test_groups_of_one_are_no_groups():
    scores = np.random.default_rng(3).gamma(0.7, size=180)
    alone, grouped = metric_interval(RMSE, scores), metric_interval(RMSE, scores, groups=np.arange(180))
    width = alone.high - alone.low
    assert abs(alone.low - grouped.low) < 0.05 * width and abs(alone.high - grouped.high) < 0.05 * width
    assert (alone.method, grouped.method, grouped.n) == ("bca", "bca of groups", 180)


def test_copies_of_an_example_tell_no_more_than_one():
    scores = np.random.default_rng(3).gamma(0.7, size=60)
    once = metric_interval(MSE, scores, groups=np.arange(60))
    often = metric_interval(MSE, np.repeat(scores, 9), groups=np.repeat(np.arange(60), 9))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), rel=1e-9)


def test_agreement_of_groups_is_as_sure_as_there_are_groups():
    decisions = np.random.default_rng(0).normal(size=(100, 1, 4))
    groups = np.arange(100) // 10
    same = agreement(decisions, decisions, FORECAST, targets=decisions + 1, groups=groups)
    assert (same.value, same.low, same.method) == (1.0, wilson(10, 10)[0], "wilson of groups")
    moved = decisions + np.where(np.arange(100) < 10, 2.0, 0.0)[:, None, None]
    part = agreement(moved, decisions, FORECAST, targets=decisions + 1, groups=groups)
    assert part.value == 0.9 and part.low < 0.8 and part.method == "bca of groups"


@pytest.mark.parametrize("goal", [MSE, RMSE])
@pytest.mark.parametrize(
    ("scores", "groups"),
    [([0, 1, 0, 1], [0, 0, 1, 1]), ([0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]), ([0.1, 0.3, 0.2, 0.2], [5, 5, 9, 9])],
    ids=["halves", "thirds", "unlike within"],
)
def test_groups_of_one_mean_have_it_at_both_ends(goal, scores, groups):
    found = metric_interval(goal, np.array(scores, float), groups=np.array(groups))
    assert found.low == found.value == found.high == pytest.approx(goal.value(np.array(scores)))


@pytest.mark.parametrize("goal", [MSE, RMSE])
def test_models_that_differ_within_groups_alone_are_indistinguishable(goal):
    """Also where their sums differ in the last digit."""
    groups = np.repeat(np.arange(6), 5)
    halves = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1])
    pairs = [halves]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        a = rng.random((6, 5))
        pairs.append((a.ravel(), rng.permuted(a, axis=1).ravel(), groups))
    for a, b, together in pairs:
        found = paired_difference(goal, a, b, groups=together)
        assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)
        assert found.indistinguishable and found.better is None
