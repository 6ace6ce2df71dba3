"""A search that starts from what an earlier run learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import search_driver
from small_search import BUDGET, begun, settings

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.space import Limits, Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search import prior
from searchkit.search.coordinator import search
from searchkit.search.results import history


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, task: Task, tiny: Space) -> Run:
    run = begun(tmp_path_factory.mktemp("earlier"), task, "first")
    ctx = Context(run, task, lambda name: tiny, seed=5, echo=lambda line: None)
    search(tiny, ctx, settings(sampler="random", minimize="params", budget=replace(BUDGET, trials=8)))
    return run


def go_on(root: Path, task: Task, tiny: Space, kept: Any, *, limits: Limits | None = None, trials: int = 12) -> Run:
    run = begun(root, task, "second", prior=kept)
    ctx = Context(run, task, lambda name: tiny, seed=9, limits=limits or Limits(), echo=lambda line: None)
    search(tiny, ctx, settings(budget=replace(BUDGET, trials=trials, epochs=1, rungs=1)))
    return run


def test_the_best_trials_of_the_earlier_run_are_proposed_first(
    tmp_path: Path, earlier: Run, task: Task, tiny: Space
) -> None:
    kept = prior.learn(earlier, task, [tiny])
    losses = {row["number"]: (-float(row["value"] or 0), row["cost"]["params"]) for row in history(earlier)}
    by_params = {json.dumps(row["params"], sort_keys=True): losses[row["number"]] for row in history(earlier)}
    taken = [by_params[json.dumps(params, sort_keys=True)] for params in kept["families"]["tiny"]]
    assert len(taken) == prior.MOST and taken[0] == min(losses.values())
    front = [p for p in losses.values() if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in losses.values())]
    assert set(taken[: len(front)]) == set(front), "the front comes before the rest"
    rows = history(go_on(tmp_path, task, tiny, kept))
    assert [row["params"] for row in rows[:3]] == kept["families"]["tiny"][:3], "one in four of 12 trials"
    assert [row["way"] for row in rows[:3]] == ["as in first"] * 3 and rows[3]["way"] != "as in first"


def test_what_the_limits_refuse_is_followed_by_the_next(tmp_path: Path, earlier: Run, task: Task, tiny: Space) -> None:
    costs = {row["number"]: row["cost"]["params"] for row in history(earlier)}
    limit = int(sorted(costs.values())[2])
    kept = prior.learn(earlier, task, [tiny])
    rows = history(go_on(tmp_path, task, tiny, kept, limits=Limits(params=limit), trials=12))
    taken = [row for row in rows if row["way"] == "as in first"]
    assert len(taken) == 3 and {row["status"] for row in taken} == {"trained", "rejected"}
    assert all((row["status"] == "trained") == (row["cost"]["params"] <= limit) for row in taken)


def test_a_parameter_that_is_new_or_out_of_range_is_in_the_middle(tmp_path: Path, task: Task, tiny: Space) -> None:
    kept = {"run": "old", "families": {"tiny": [{"depth": 2, "width0": 1000, "gone": 3, "activation": "tanh"}]}}
    (row, *_) = history(go_on(tmp_path, task, tiny, kept))
    assert (row["params"]["depth"], row["params"]["activation"]) == (2, "tanh")
    assert row["params"]["width0"] == row["params"]["width1"] == 20 and "gone" not in row["params"]


def test_a_run_without_a_prior_is_sampled_as_ever(tmp_path: Path, task: Task, tiny: Space) -> None:
    from searchkit.search.named_samplers import NAMED

    assert prior.primed(NAMED["tpe"], begun(tmp_path, task, "none"), "tiny") is NAMED["tpe"]
    other = begun(tmp_path, task, "other", prior={"run": "r", "families": {"mlp": [{"a": 1}]}})
    assert prior.primed(NAMED["tpe"], other, "tiny") is NAMED["tpe"]
    damaged = begun(tmp_path, task, "damaged", prior={"run": "r", "families": {"tiny": 3}})
    with pytest.raises(BadInput, match="prior.*families"):
        prior.primed(NAMED["tpe"], damaged, "tiny")


class Elsewhere:
    """The task, with another kind in its summary."""

    def __init__(self, task: Task, **facts: str) -> None:
        self.task, self.facts = task, facts
        self.spec = task.spec

    def summary(self) -> dict[str, Any]:
        return {**self.task.summary(), **self.facts}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"modality": "image"}, "'first' is of another task: classification of tabular data, and this search is "
                                "classification of image data; name a run of the same kind"),
        ({"kind": "regression"}, "classification of tabular data, and this search is regression of tabular data"),
    ],
)  # fmt: skip
def test_another_kind_of_task_is_refused(
    earlier: Run, task: Task, tiny: Space, facts: dict[str, str], says: str
) -> None:
    other: Any = Elsewhere(task, **facts)
    with pytest.raises(BadInput) as refused:
        prior.learn(earlier, other, [tiny])
    assert says in str(refused.value)


def test_other_families_and_empty_runs_are_refused(tmp_path: Path, earlier: Run, task: Task, tiny: Space) -> None:
    narrow = load_space(search_driver.NARROW)
    with pytest.raises(BadInput, match="'first' searched tiny, and this search has narrow; name a run that shares"):
        prior.learn(earlier, task, [narrow])
    both = prior.learn(earlier, task, [narrow, tiny])
    assert list(both["families"]) == ["tiny"]
    with pytest.raises(BadInput, match="'empty' has no search in it yet"):
        prior.learn(begun(tmp_path, task, "empty"), task, [tiny])
    renamed = replace(narrow, name="tiny", sample=lambda trial, spec: narrow.sample(_Renaming(trial), spec))
    renamed = replace(renamed, training=replace(renamed.training, ranges={}))
    with pytest.raises(BadInput, match="'first' has no parameter that the families tiny still have"):
        prior.learn(earlier, task, [renamed])


class _Renaming:
    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.trial.suggest_int(f"new_{name}", low, high))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.trial.suggest_categorical(f"new_{name}", choices)


def test_a_run_in_which_nothing_was_trained_is_refused(tmp_path: Path, task: Task, tiny: Space) -> None:
    from searchkit.search.study import TrialStore

    run = begun(tmp_path, task, "untrained")
    about = {"goal": "accuracy", "direction": "maximize", "directions": ["maximize"], "cost": None, "study": "s"}
    run.write_json("search.json", {"tiny": {**about, "url": None, "owner": ""}})
    TrialStore(f"sqlite:///{run.path / 'study.db'}", "s", ("maximize",), facts="f")
    with pytest.raises(BadInput, match="'untrained' has no trained trial to start from"):
        prior.learn(run, task, [tiny])
