"""A stranger's metric: a search, a stage and the evidence go by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import search_driver

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.goal import Goal
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search.coordinator import search
from searchkit.search.results import history, winners
from searchkit.search.settings import SearchSettings
from searchkit.stages.pipeline import apply
from searchkit.stages.promote import Promote
from searchkit.tasks import registry
from searchkit.tasks.own_metric import Metric, with_metric


def missed_tumors(decisions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A tumor (class 0) that is missed costs ten times a false alarm."""
    return np.where(targets == 0, 10.0 * (decisions != 0), 1.0 * (decisions == 0))


COST = Metric("cost_of_errors", missed_tumors, direction="minimize", span=10.0)
BUDGET = Budget(trials=3, epochs=2, rungs=1, least_rung_steps=1)


@pytest.fixture(scope="module")
def plain() -> Task:
    return registry.load({"task": "breast-cancer", "split_seed": 0})


@pytest.mark.parametrize(("executor", "workers"), [("inline", 1), ("processes", 1)])
def test_a_search_and_a_stage_go_by_it(tmp_path: Path, plain: Task, executor: str, workers: int) -> None:
    task, space = with_metric(plain, COST), load_space(search_driver.TINY)
    ctx = Context(Run.create(tmp_path, "run", {}), task, lambda name: space, seed=1, echo=lambda line: None)
    search(space, ctx, SearchSettings(budget=BUDGET, executor=executor, workers=workers, precision="fp32"))
    values = [row["value"] for row in history(ctx.run)]
    best = winners(ctx.run)[0]
    assert best.metrics["cost_of_errors"] == min(values)
    (promoted,) = apply((Promote(),), best, ctx)
    assert promoted.metrics["cost_of_errors"] == pytest.approx(min(values), abs=0.1)
    assert 0.5 < promoted.metrics["accuracy"] <= 1.0, "the task's own metrics are told beside it"
    scores = ctx.run.scores(promoted)
    assert scores.mean() == pytest.approx(promoted.metrics["cost_of_errors"]) and set(scores) <= {0.0, 1.0, 10.0}


def test_the_task_is_left_as_it_is(plain: Task) -> None:
    task = with_metric(plain, COST)
    assert plain.goal.metric == "accuracy" and task.goal == Goal("cost_of_errors", "minimize", span=10.0)
    assert task.summary()["goal"] == "cost_of_errors" and task.fingerprint == plain.fingerprint


def test_a_score_that_is_not_one_number_an_example_is_a_sentence(plain: Task) -> None:
    def zeros(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {plain.answers[0].name: np.zeros((plain.n_examples("val"), 2), np.float32)}

    def with_one(value: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda decisions, targets: np.where(np.arange(len(decisions)) == 3, value, 0.0)

    for score, said in (
        (lambda decisions, targets: np.float64(0.5), r"shape \(\) for \d+ examples"),
        (with_one(np.nan), "'mine' gives nan for example 3; a mean needs finite numbers"),
        (with_one(np.inf), "gives inf for example 3"),
        (with_one(-np.inf), "gives -inf for example 3"),
    ):
        with pytest.raises(BadInput, match=said):
            with_metric(plain, Metric("mine", score)).evaluate(zeros, "val")  # type: ignore[arg-type]


def test_a_network_that_answers_no_numbers_has_no_number_for_its_metric() -> None:
    """As with a metric of the task's own: the trial is passed over, and the search goes on."""
    task = registry.load({"task": "diabetes"})
    mine = with_metric(task, Metric("mine", lambda decisions, targets: np.abs(decisions - targets)[:, 0], "minimize"))
    lost = np.full((task.n_examples("val"), 1), np.nan, np.float32)
    found = mine.evaluate(lambda raw: {"values": lost}, "val")
    assert np.isnan(found.metrics["mine"]) and np.isnan(found.metrics["rmse"])


def test_a_score_that_workers_cannot_import_is_a_sentence(plain: Task) -> None:
    with pytest.raises(BadInput, match="cannot import the score of the metric 'mine'.*executor inline"):
        with_metric(plain, Metric("mine", lambda decisions, targets: decisions * 0.0)).pack()


def test_a_task_without_targets_takes_none() -> None:
    task = registry.load({"task": "digits", "kind": "generation"})
    with pytest.raises(BadInput, match="takes no metric of your own"):
        with_metric(task, COST)
