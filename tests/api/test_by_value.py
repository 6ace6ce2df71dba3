"""A stranger's sampler, stage and metric, given by value: the line goes by them, and the run keeps their names."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import FrozenTrial

import searchkit
from searchkit.core.artifact import Artifact
from searchkit.core.stage import StageContext
from searchkit.search.candidates import Candidate
from searchkit.search.choices import at, at_random
from searchkit.search.named_samplers import Random
from searchkit.search.results import history
from searchkit.search.sampler import Ask, SearchView
from searchkit.stages import recipes

HERE = __name__
TINY = Path(__file__).parents[1] / "families" / "tiny.py"
SHORT: dict[str, Any] = {"task": "breast-cancer", "executor": "inline", "progress": "none"}
BUDGET = {"trials": 2, "epochs": 1, "rungs": 1}


@dataclass(frozen=True)
class Smallest:
    """The smallest network first, then any."""

    name: str = "smallest"

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        return view.draw(at_random(random.Random(ask.seed)) if trials else at(0.0), "smallest first")


@dataclass(frozen=True)
class Other(Smallest):
    """Another sampler of the same name."""


@dataclass(frozen=True)
class Rounded:
    """Weights on a grid."""

    step: float = 0.25

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        network = ctx.network(artifact)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_((parameter / self.step).round() * self.step)
        return ctx.save(ctx.child(artifact, self), network)


def missed_tumors(decisions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A tumor (class 0) that is missed costs ten times a false alarm."""
    return np.where(targets == 0, 10.0 * (decisions != 0), 1.0 * (decisions == 0))


def hits(decisions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(decisions == targets, dtype=float)


COST = searchkit.Metric("cost_of_errors", missed_tumors, direction="minimize", span=10.0)
LINE = (searchkit.Promote(), Rounded(0.125), searchkit.Export(rows=16))
OWN: dict[str, Any] = {"sampler": Smallest(), "recipe": LINE, "metric": COST}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> searchkit.Result:
    root = tmp_path_factory.mktemp("own")
    return searchkit.search(TINY, name="own", runs=root, budget=BUDGET, **OWN, **SHORT)


def told(command: str, run: searchkit.Result, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "searchkit", command, *flags, "--runs", str(run.path.parent)]
    return subprocess.run(words, capture_output=True, text=True, cwd=Path(searchkit.__file__).parents[1])


def ways(run: searchkit.Result) -> list[str]:
    return [row["way"] for row in history(run._run)]


def test_the_whole_line_goes_by_what_was_given(result: searchkit.Result) -> None:
    assert ways(result) == ["smallest first"] * 2
    assert result.trials[0].params["depth"] == 1 and result.trials[0].params["width0"] == 4
    assert {trial.metric for trial in result.trials} == {"cost_of_errors"}
    assert result.best.value == min(trial.value for trial in result.trials if trial.value is not None)
    shipped = result.stages[-1]
    assert shipped["shipped"] and shipped["low"] <= shipped["cost_of_errors"] <= shipped["high"]
    weights = result._run.weights(next(a for a in result._run.artifacts().values() if a.stage == "Rounded"))
    assert all(torch.equal(8 * value, (8 * value).round()) for value in weights.values())


def test_the_run_keeps_the_names_and_report_and_status_read_them(result: searchkit.Result) -> None:
    config = json.loads((result.path / "run.json").read_text())["config"]
    assert config["search"]["own_sampler"] == f"{HERE}.Smallest"
    assert config["search"]["own_metric"] == f"{HERE}.missed_tumors"
    assert config["compression"]["own_recipe"] == "Promote, Rounded, Export"
    report = json.loads((result.path / "report" / "report.json").read_text())
    assert report["run"]["recipe"] == report["question"]["recipe"] == "Promote, Rounded, Export"
    assert report["question"]["sampler"] == f"{HERE}.Smallest" and report["goal"]["metric"] == "cost_of_errors"
    assert f"--sampler {HERE}.Smallest --metric {HERE}.missed_tumors" in report["command"]
    page = result.report()
    assert "cost of errors" in page.read_text()
    assert searchkit.load_run(result.path).verdict == result.verdict
    done = told("status", result, "own")
    assert done.returncode == 0, done.stderr
    assert f"recipe Promote, Rounded, Export, sampler {HERE}.Smallest" in done.stdout
    assert "goal      minimize cost of errors" in done.stdout


def test_it_goes_on_with_the_same_values_alone(result: searchkit.Result) -> None:
    def refused(**given: Any) -> str:
        with pytest.raises(searchkit.BadInput) as problem:
            searchkit.resume(result, budget={"trials": 3}, progress="none", **given)
        assert len(str(problem.value)) <= 300
        return str(problem.value)

    missing = f"sampler=<{HERE}.Smallest>, metric=<{HERE}.missed_tumors>, recipe=<Promote, Rounded, Export>"
    assert refused().endswith(f"searchkit.resume(run, {missing}).")
    assert refused(sampler=Smallest(), recipe=LINE).endswith(f"searchkit.resume(run, metric=<{HERE}.missed_tumors>).")
    assert refused(**{**OWN, "sampler": "tpe"}).endswith(f"searchkit.resume(run, sampler=<{HERE}.Smallest>).")
    other = refused(**{**OWN, "sampler": Other()})
    assert f"the sampler {HERE}.Smallest by value, and {HERE}.Other is another" in other
    other = refused(**{**OWN, "metric": hits})
    assert f"the metric {HERE}.missed_tumors by value, and {HERE}.hits is another" in other
    turned = refused(**{**OWN, "metric": missed_tumors})
    assert "to minimize cost_of_errors, and the metric is now to maximize missed_tumors" in turned
    config = json.loads((result.path / "run.json").read_text())["config"]
    assert config["budget"]["trials"] == len(result.trials) == 2, "what is refused changes nothing"
    with pytest.raises(searchkit.BadInput, match=r"searchkit.compress\(run, metric=<.*missed_tumors>\)"):
        searchkit.compress(result, recipe="export", progress="none")
    done = told("search", result, "--resume", "own")
    assert done.returncode == 2 and f"give it again in Python: searchkit.resume(run, {missing})." in done.stderr
    assert "Traceback" not in done.stderr
    more = searchkit.resume(result, budget={"trials": 3}, progress="none", **OWN)
    assert ways(more) == ["smallest first"] * 3


def test_a_bundle_has_no_script_of_the_metric_that_was_replaced(tmp_path: Path) -> None:
    """A problem's own script would be held against the interval of the metric that was given."""
    rows = np.random.default_rng(0).normal(size=(90, 3))
    asked = {**SHORT, "task": None, "problem": "ordinal", "budget": {**BUDGET, "trials": 1}}
    recipe = (searchkit.Promote(), searchkit.Export(rows=16))
    run = searchkit.search(TINY, (rows, np.arange(90) % 3), runs=tmp_path, metric=hits, recipe=recipe, **asked)
    assert not (run.bundle / "metric.py").exists()
    searchkit.search(TINY, (rows, np.arange(90) % 3), runs=tmp_path, recipe="export", name="plain", **asked)
    assert (tmp_path / "plain" / "bundle" / "metric.py").is_file()


def test_compress_takes_stages(tmp_path: Path) -> None:
    asked = {**SHORT, "budget": {**BUDGET, "trials": 1}, "recipe": "none"}
    run = searchkit.search("mlp", name="plain", runs=tmp_path, sampler=Random(), metric="accuracy", **asked)
    search = json.loads((run.path / "run.json").read_text())["config"]["search"]
    assert (search["sampler"], search["own_sampler"], search["own_metric"]) == ("random", None, None)
    prune = searchkit.Prune(to=0.5, recovery_epochs=1, max_drop=None)
    recipe = searchkit.Recipe((searchkit.Promote(), prune, searchkit.Export()), "halved")
    again = searchkit.compress(run, recipe=recipe, progress="none")
    stages = [artifact.stage for artifact in again._run.artifacts().values()]
    assert sorted(stages) == ["Export", "Promote", "Prune", "Trial"]
    assert again.stages[-1]["params"] < 0.7 * again.stages[0]["params"]
    report = json.loads((again.path / "report" / "report.json").read_text())
    assert report["run"]["recipe"] == "halved: Promote, Prune, Export" and report["left_out"] == {}
    assert "--recipe 'halved: Promote, Prune, Export'" in report["command"]
    assert recipes.stage_names(recipe.title) == ("Promote", "Prune", "Export"), "what is left out is looked up by it"
    for given, says in (
        ({"sampler": Smallest()}, f"no sampler by value, and {HERE}.Smallest is another"),
        ({"sampler": "tpe"}, "has sampler=random and goes on with it"),
        ({"metric": hits}, f"no metric by value, and {HERE}.hits is another"),
    ):
        with pytest.raises(searchkit.BadInput, match=says):
            searchkit.resume(run, progress="none", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sampler": Smallest}, "is no sampler; give a name, or a value"),
        ({"sampler": 3}, "sampler=3 is no sampler"),
        ({"sampler": "smallest"}, "smallest"),
        ({"recipe": (searchkit.Export(),)}, r"begins with Promote\(\)"),
        ({"recipe": searchkit.Export()}, "is no recipe; give a name, or stages"),
        ({"recipe": LINE, "prune_to": 0.5}, "prune_to is a setting of a recipe that is named"),
        ({"metric": "f1"}, "has the metric 'accuracy', and metric='f1' is another"),
        ({"metric": lambda decisions, targets: targets}, "is no metric; give a searchkit.Metric with a name"),
        ({"metric": 3}, "metric=3 is no metric"),
        ({"metric": COST, "task": "digits", "problem": "generation"}, "takes no metric of your own"),
    ],
)
def test_what_is_none_is_a_sentence_and_leaves_no_run(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(searchkit.BadInput, match=says) as refused:
        searchkit.search("mlp", runs=tmp_path, budget=BUDGET, **{**SHORT, **given})
    assert len(str(refused.value)) <= 300 and not list(tmp_path.iterdir())


def test_a_family_is_written_with_the_facade_alone(tmp_path: Path) -> None:
    """The family of the tests, its imports from searchkit rather than from the modules."""
    lines = TINY.read_text().splitlines()
    own = [line for line in lines if not line.startswith("from searchkit.")]
    names = [line.partition(" import ")[2] for line in lines if line.startswith("from searchkit.")]
    at_top = own.index("from torch import nn") + 1
    own.insert(at_top, f"from searchkit import {', '.join(names)}")
    file = tmp_path / "mine.py"
    file.write_text("\n".join(own))
    asked = {**SHORT, "budget": {**BUDGET, "trials": 1}, "recipe": "none"}
    found = searchkit.search(file, runs=tmp_path / "runs", metric=hits, **asked)
    assert [(trial.space, trial.metric) for trial in found.trials] == [("tiny", "hits")]
