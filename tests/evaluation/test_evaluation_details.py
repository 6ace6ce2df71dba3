"""Details of the evidence and its statistics: where an interval just touches 0, and what is kept and read again."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_run import ACCURACY, add_line, make_evidence, make_run

from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal
from searchkit.evaluation import evidence, statistics
from searchkit.evaluation.records import FILE, Evidence, stored
from searchkit.evaluation.statistics import agreement, paired_difference
from searchkit.run import Run
from searchkit.tasks.predictions import CLASSES, STEPS

ERROR = Goal("mae", "minimize")


@pytest.mark.parametrize(
    ("ends", "same"),
    [((0.0, 0.2), True), ((-0.2, 0.0), True), ((1e-9, 0.2), False), ((-0.2, -1e-9), False), ((-0.1, 0.1), True)],
)
def test_a_difference_whose_interval_touches_zero_is_none(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[float, float], same: bool
) -> None:
    monkeypatch.setattr(statistics, "_bca", lambda *given: ends)
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    found = paired_difference(ERROR, a, b)
    assert (found.low, found.high, found.indistinguishable) == (*ends, same)
    assert found.better is (None if same else ERROR.better(found.value, 0.0))


@pytest.mark.parametrize("groups", [None, np.arange(300) // 3])
def test_resampled_means_have_the_mean_and_the_spread_of_the_theory(groups: np.ndarray | None) -> None:
    """Of one score an example and of two; drawn as counts, in rows, and in chunks, and each resample on its own."""
    rng = np.random.default_rng(1)
    few, many = rng.integers(0, 2, 300).astype(float), rng.random(300)
    for scores in (few, many, np.stack([few, few], axis=1), np.stack([many, 2 * many], axis=1)):
        means = statistics._bootstrap_means(scores, 0, groups)
        assert means.shape == (statistics.RESAMPLES, *scores.shape[1:])
        unit = scores if groups is None else scores.reshape(100, 3, *scores.shape[1:]).mean(axis=1)
        np.testing.assert_allclose(means.mean(axis=0), scores.mean(axis=0), atol=0.01)
        np.testing.assert_allclose(means.std(axis=0), unit.std(axis=0) / np.sqrt(len(unit)), rtol=0.1)
        assert len(np.unique(means, axis=0)) > 40  # no resample is a copy of another but by chance


def test_means_are_the_same_in_one_chunk_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, groups = np.random.default_rng(1).random(100), np.arange(100) // 2
    whole = [statistics._bootstrap_means(scores, 3, g) for g in (None, groups)]
    monkeypatch.setattr(statistics, "_CHUNK", 100)  # one resample a chunk
    for before, g in zip(whole, (None, groups), strict=True):
        found = statistics._bootstrap_means(scores, 3, g)
        assert found.shape == before.shape and np.ptp(found) > 0
        np.testing.assert_allclose(found.mean(), before.mean(), atol=0.005)


def test_agreement_of_a_part_of_each_example_is_seeded_alike_every_time() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (40, 9)), rng.integers(0, 3, (40, 9))
    found = agreement(a, b, STEPS, targets=b)
    alike = (a == b).mean(axis=1)
    assert found.value == pytest.approx(alike.mean())
    assert (found.low, found.high) == statistics._bca(alike, 0)


def test_groups_whose_examples_all_agree_or_none_have_wilsons_interval_of_the_groups() -> None:
    answers, groups = np.zeros(12, int), np.arange(12) // 3
    for other, n in ((answers, 4), (answers + 1, 0)):
        found = agreement(answers, other, CLASSES, targets=answers, groups=groups)
        assert (found.low, found.high) == statistics.wilson(n, 4) and found.value == n / 4


def test_agreement_of_groups_has_the_resamples_of_one_seed() -> None:
    rng = np.random.default_rng(0)
    a, b, groups = rng.integers(0, 2, 60), rng.integers(0, 2, 60), np.arange(60) // 3
    found = agreement(a, b, CLASSES, targets=b, groups=groups)
    assert (found.low, found.high) == statistics._bca((a == b).astype(float), 0, groups) and found.low < found.high


def test_a_baseline_is_compared_with_resamples_of_its_seed() -> None:
    rng = np.random.default_rng(0)
    own, chosen = (Evaluation({}, rng.random(50), np.zeros(50), np.zeros(50)) for _ in range(2))
    found = evidence._baseline(ERROR, "mean", own, chosen, 5, None)
    assert found.difference == paired_difference(ERROR, chosen.scores, own.scores, seed=5)
    assert found.difference != paired_difference(ERROR, chosen.scores, own.scores)
    assert found.metric == statistics.metric_interval(ERROR, own.scores, seed=5)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_pictures_are_shown_in_color_from_three_channels_on(channels: int, shown: int) -> None:
    assert evidence._as_bytes(np.zeros((2, 9, 9, channels)), 0.0, 1.0).shape == (2, 9, 9, shown)


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), n_trials=6)


@pytest.fixture(scope="module")
def whole(run: Run) -> Evidence:
    return make_evidence(add_line(run, ACCURACY), ACCURACY, "classes")


def test_pictures_have_the_bytes_of_their_shape(run: Run, whole: Evidence) -> None:
    row = base64.b64encode(bytes(2 * 3 * 3)).decode()
    for rows, fits in (
        ({"given": row}, True),
        ({"given": row, "shipped": row[:-4]}, False),
        ({"given": row[:8] + "!!!!" + row[8:]}, False),  # no base64, though b64decode would skip it
        ({"given": "é" * 24}, False),
    ):
        plain = replace(whole, pictures={"shape": [2, 3, 3, 1], "rows": rows}).to_json()
        run.write_json(FILE, json.loads(json.dumps(plain)))
        if fits:
            assert stored(run) is not None
        else:
            with pytest.raises(BadInput, match="'pictures'"):
                stored(run)
    (run.path / FILE).unlink()


def test_evidence_of_the_same_files_is_not_measured_again(
    run: Run, whole: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(ctx: Any, models: Any, fp32: Any, hashes: Any) -> Evidence:
        measured.append(fp32.id)
        return replace(whole, files=hashes, reference=fp32.id, chosen=models[-1].id)

    monkeypatch.setattr(evidence, "_measured", measure)
    ids = [model.id for model in whole.models]
    line: Any = [Model(id) for id in ids]
    ctx: Any = type("Ctx", (), {"run": run, "model_path": lambda self, artifact: artifact.path})()
    monkeypatch.setattr(evidence, "_sha256", lambda path: f"hash of {path}")
    first = evidence.collect(ctx, line, line[0])
    assert evidence.collect(ctx, line, line[0]) == first and measured == ids[:1]
    again = evidence.collect(ctx, line, line[0], asked={"recipe": "int8"})
    assert again.recipe == "int8" and measured == ids[:1], "the same files, asked for in another way"
    evidence.collect(ctx, line, line[1])
    assert measured == ids[:2], "another reference"
    evidence.collect(ctx, line[:-1], line[1])
    assert measured == [*ids[:2], ids[1]], "other files"
    (run.path / FILE).unlink()


class Model:
    """As much of an artifact as `collect` looks at."""

    files = ("model",)

    def __init__(self, id: str) -> None:
        self.id, self.path = id, id
