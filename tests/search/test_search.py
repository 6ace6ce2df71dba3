"""What a search promises apart from surviving kills: limits, halving, samplers, budgets, and the results it leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import search_driver
from hypothesis import given
from hypothesis import strategies as st
from interrupt_driver import dropped_ctrl_c
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core.data_spec import DataSpec
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.interrupt import Interrupted
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Limits, Space, Trial
from searchkit.core.space_file import load_space, materialize, source_of
from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, TrainState
from searchkit.onnx import measure
from searchkit.run import Run
from searchkit.search import successive_halving
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at, at_random, grid_leaves, grid_values, holds, like, neighbor
from searchkit.search.coordinator import search
from searchkit.search.feasibility import _descend
from searchkit.search.jobs import worker_environment
from searchkit.search.results import failures, history, importances, random_so_far, winners
from searchkit.search.settings import SearchSettings, SearchStopped, Status
from searchkit.search.storage import whole_url, without_password
from searchkit.tasks import registry

BUDGET = Budget(trials=6, epochs=2, rungs=2, eta=2, least_rung_steps=1)


@pytest.fixture(scope="module")
def task() -> Task:
    return registry.load({"task": "breast-cancer", "split_seed": 0})


@pytest.fixture(scope="module")
def tiny() -> Space:
    return load_space(search_driver.TINY)


@pytest.fixture
def context(tmp_path: Path, task: Task, tiny: Space) -> Context:
    return Context(Run.create(tmp_path, "run", {}), task, lambda name: tiny, seed=1, echo=lambda line: None)


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**{"budget": BUDGET, "precision": "fp32", **changes})


# ── the whole search ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sampler", "minimize"), [("tpe", None), ("tpe", "params"), ("nsga2", "params"), ("random", None), ("grid", None)]
)
def test_every_sampler_uses_its_budget_without_repeats(
    context: Context, tiny: Space, sampler: str, minimize: str | None
) -> None:
    seen: list[Status] = []
    search(tiny, context, settings(sampler=sampler, minimize=minimize), seen.append)
    rows = history(context.run)
    trained = [row for row in rows if row["status"] == "trained"]
    assert len(trained) == BUDGET.trials == seen[-1].done
    assert len({tuple(sorted(row["params"].items())) for row in rows}) == len(rows)
    best = max(row["value"] for row in trained)
    assert seen[-1].best == best == winners(context.run)[0].metrics["accuracy"]
    assert any(row["epochs"] == 1 for row in trained), "nothing was stopped at the first rung"
    assert any(row["epochs"] == 2 for row in trained), "nothing was trained to the end"


def test_the_front_is_what_no_trial_beats(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(minimize="params"))
    front = winners(context.run)
    points = [(-a.metrics["accuracy"], a.metrics["params"]) for a in front]
    assert points == sorted(points)
    for better, worse in zip(points, points[1:], strict=False):
        assert worse == better or worse[1] < better[1], "a trial on the front is worse than another and no cheaper"
    for other in context.run.trials():
        point = (-other.metrics["accuracy"], other.metrics["params"])
        beaten = any(p[0] <= point[0] and p[1] <= point[1] for p in points)
        assert beaten, "a trial outside the front is beaten by one on it"


def test_a_candidate_over_a_limit_is_recorded_and_never_trained(context: Context, tiny: Space) -> None:
    context = replace(context, limits=Limits(params=700))
    search(tiny, context, settings(sampler="random"))
    rejected = [row for row in failures(context.run) if row["status"] == "rejected" and row["cost"]]
    assert rejected
    for row in rejected:
        assert row["cost"]["params"] > 700
        assert row["rejected"] == {"params": pytest.approx(row["cost"]["params"] / 700 - 1)}
    dispatched = {row["trial"] for row in context.run.lines("search.jsonl") if row["event"] == "dispatch"}
    assert not dispatched & {row["number"] for row in rejected}
    assert all(a.metrics["params"] <= 700 for a in context.run.trials())
    assert len(context.run.trials()) == BUDGET.trials
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{context.run.path / 'study.db'}")
    assert all(study.trials[row["number"]].constraints == row["rejected"] for row in rejected)


def test_a_training_that_would_eat_the_time_is_refused_before_it_begins(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of its steps, which is planted here as a second for each parameter."""
    from searchkit.search import asking
    from searchkit.search.time_planning import TimePlan

    def planted(space: Space, ctx: Context, candidate: Candidate, own_work: float) -> float:
        return float(measure.params(space.build(candidate.arch, ctx.task.spec)))

    monkeypatch.setattr(asking, "training_seconds", planted)
    context.run.write_json("pace.json", {"tiny": freeze(TimePlan("fp32", False, 4, 10**9, 700.0, 6))})
    search(tiny, context, settings(sampler="random"))
    rejected = [row for row in failures(context.run) if row["status"] == "rejected" and row["cost"]]
    assert rejected
    for row in rejected:
        assert row["rejected"] == {"training_seconds": pytest.approx(row["cost"]["params"] / 700 - 1)}
        assert row["reason"].startswith("training_seconds over by ")
    assert len(context.run.trials()) == BUDGET.trials
    assert all(a.metrics["params"] <= 700 for a in context.run.trials())


def test_the_first_candidate_under_limits_is_a_large_one_with_the_middles_kinds_of_layers(
    context: Context, tiny: Space
) -> None:
    context = replace(context, limits=Limits(params=1500))
    search(tiny, context, settings())
    first = history(context.run)[0]
    middle = draw(tiny, context.task.spec, at(0.5), epochs=1, way="test")
    assert first["way"] == "largest that fits"
    assert first["params"]["activation"] == middle.params["activation"]
    assert first["params"]["train.lr"] == tiny.training.default.lr
    assert 750 < next(a for a in context.run.trials() if a.made_by["number"] == 0).metrics["params"] <= 1500


def test_a_trial_costs_what_halving_leaves_of_it() -> None:
    from searchkit.search.time_planning import share_of_a_trial

    assert share_of_a_trial((18,), 3) == 1
    assert share_of_a_trial((2, 6, 18), 3) == pytest.approx((2 + 4 / 3 + 12 / 9) / 18)


def test_what_the_time_allows_is_found_by_timing_steps(context: Context, tiny: Space) -> None:
    from searchkit.search.time_planning import make_time_plan, training_seconds

    context = replace(context, deadline=Deadline.after(60.0))
    pace = make_time_plan(tiny, context, settings(precision="auto"))
    assert pace.most_seconds is not None and 29 < pace.most_seconds <= 60
    assert pace.trials == BUDGET.trials and pace.epochs == BUDGET.epochs
    candidate = draw(tiny, context.task.spec, at(0.5), epochs=pace.epochs, way="test")
    assert 0 < training_seconds(tiny, context, candidate, pace.own_work) < pace.most_seconds
    assert make_time_plan(tiny, context, settings(precision="auto")) == pace, "measured twice"


def test_what_a_task_does_beside_the_loss_counts(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critic, planted as 20 ms of work a step: a training of so many steps lasts that long at least."""
    from searchkit import train
    from searchkit.search.time_planning import make_time_plan, training_seconds

    def with_critic(model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        def loss(net: nn.Module, batch: Batch) -> Tensor:
            ends = time.thread_time() + 0.02
            while time.thread_time() < ends:
                pass
            return context.task.loss(net, batch)

        return train.fit(model, context.task, replace(plan, loss=loss), state)

    monkeypatch.setattr(context.task, "fit", with_critic)
    context = replace(context, deadline=Deadline.after(60.0))
    pace = make_time_plan(tiny, context, settings(plans_epochs=True))
    candidate = draw(tiny, context.task.spec, at(0.5), epochs=pace.epochs, way="test")
    steps = pace.epochs * context.task.n_examples("train") // candidate.training.batch_size
    assert candidate.training.batch_size * pace.own_work > 0.01
    assert training_seconds(tiny, context, candidate, pace.own_work) > 0.01 * steps


def test_few_rows_are_trained_on_for_longer(context: Context, tiny: Space) -> None:
    from searchkit.search.time_planning import LEAST_STEPS, make_time_plan, middle_candidate

    pace = make_time_plan(tiny, context, settings(plans_epochs=True))
    middle = middle_candidate(tiny, context, epochs=pace.epochs)
    assert middle is not None
    steps = -(-context.task.n_examples("train") // middle.training.batch_size)
    assert (pace.epochs - 1) * steps < LEAST_STEPS <= pace.epochs * steps
    assert pace.epochs > BUDGET.epochs, "too many rows to show it"


def test_a_budget_whose_time_is_over_is_not_searched_on_when_resumed(context: Context, tiny: Space) -> None:
    """Though the stages did not need all that was kept back for them. A raised budget is."""
    budget = replace(BUDGET, trials=4, seconds=1e6)
    search(tiny, context, settings(budget=replace(budget, trials=2)))
    log = context.run.path / "search.jsonl"
    *rows, end = context.run.lines("search.jsonl")
    assert end["event"] == "end" and end["budget"] == {"trials": 2, "seconds": 1e6}
    over = {**end, "budget": {"trials": 4, "seconds": 1e6}}  # as where the time ended it after two of four
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, over]))
    search(tiny, context, settings(budget=budget))
    assert len(context.run.trials()) == 2 and context.run.lines("search.jsonl")[-1] == over
    search(tiny, context, settings(budget=replace(budget, seconds=2e6)))
    assert len(context.run.trials()) == 4
    assert context.run.lines("search.jsonl")[-1]["budget"] == {"trials": 4, "seconds": 2e6}


def test_the_size_limit_is_that_of_the_exported_file(context: Context, tiny: Space) -> None:
    context = replace(context, limits=Limits(size_bytes=4000))
    search(tiny, context, settings(budget=Budget(trials=2, epochs=1, rungs=1)))
    for artifact in context.run.trials():
        net = context.network(artifact)
        path = context.run.path / "again.onnx"
        context.export(net, path)
        assert artifact.metrics["size_bytes"] == pytest.approx(path.stat().st_size, rel=0.02)
        assert artifact.metrics["size_bytes"] <= 4000
    costs = [row for row in context.run.lines("search.jsonl") if row["event"] == "cost"]
    assert len({row["arch"] for row in costs}) == len(costs), "a check was paid for twice"


def test_an_impossible_limit_is_said_before_anything_is_trained(context: Context, tiny: Space) -> None:
    context = replace(context, limits=Limits(params=100))
    with pytest.raises(NothingFeasible, match=r"widths=\[4\].*129 parameters.*limit is 100"):
        search(tiny, context, settings())
    assert not [row for row in context.run.lines("search.jsonl") if row["event"] == "dispatch"]


def test_a_time_budget_shorter_than_one_trial_is_refused(context: Context, tiny: Space) -> None:
    with pytest.raises(BadInput, match="shorter than one trial"):
        search(tiny, replace(context, deadline=Deadline.after(0.0)), settings())
    with pytest.raises(BadInput, match="shorter than one trial"):
        search(tiny, replace(context, deadline=Deadline.after(1e-3)), settings())
    assert not [row for row in history(context.run) if row["status"] == "running"]


def test_a_space_that_is_not_for_the_data_is_refused(tmp_path: Path, tiny: Space) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    context = Context(Run.create(tmp_path, "run", {}), digits, lambda name: tiny)
    with pytest.raises(BadInput, match="tables only"):
        search(tiny, context, settings())


def test_the_same_error_five_times_stops_the_run(context: Context, tmp_path: Path) -> None:
    text = search_driver.TINY.read_text().replace(
        "    layers: list[nn.Module] = []", "    layers: list[nn.Module] = [Broken()]"
    )
    broken = "class Broken(nn.Module):\n    def forward(self, x):\n"
    broken += "        assert not self.training, 'planted'\n        return x\n\n\n@dataclass(frozen=True)"
    (tmp_path / "broken.py").write_text(text.replace("@dataclass(frozen=True)", broken, 1))
    with pytest.raises(SearchStopped, match="5 trials in a row.*planted"):
        search(load_space(tmp_path / "broken.py"), context, settings(budget=replace(BUDGET, trials=9)))
    rows = failures(context.run)
    assert [row["failure"] for row in rows] == ["crashed"] * 5
    assert len(list(context.run.path.glob("artifacts/*/error.txt"))) == 5
    assert "planted" in next(context.run.path.glob("artifacts/*/error.txt")).read_text()


def test_ctrl_c_leaves_a_run_that_resumes(context: Context, tiny: Space) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(status: Status) -> None:
        if status.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="--resume run"):
        search(tiny, context, settings(), interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(row["event"] == "end" for row in context.run.lines("search.jsonl"))
    n_before = len(context.run.trials())
    assert 2 <= n_before < BUDGET.trials
    search(tiny, context, settings())
    assert [row["status"] for row in history(context.run)] == ["trained"] * BUDGET.trials
    assert context.run.lines("search.jsonl")[-1]["event"] == "end"


@pytest.mark.parametrize("done", [2, BUDGET.trials], ids=["on the way", "at the end"])
def test_ctrl_c_where_python_drops_it_is_heard(context: Context, tiny: Space, done: int) -> None:
    heard = []

    def interrupt(status: Status) -> None:
        if status.done == done and not heard:
            dropped_ctrl_c()
            heard.append(True)

    with pytest.raises(Interrupted, match="--resume run"):
        search(tiny, context, settings(), interrupt)
    assert sum(row["status"] == "trained" for row in history(context.run)) == done
    search(tiny, context, settings())
    assert [row["status"] for row in history(context.run)] == ["trained"] * BUDGET.trials


def test_a_search_never_looks_at_the_test_split(context: Context, task: Task, tiny: Space, tmp_path: Path) -> None:
    """The same search where the rows of test are garbage: equal trials, metrics, scores and weights, bit for bit."""
    config, arrays = task.pack()
    spoiled = {name: array.copy() for name, array in arrays.items()}
    spoiled["input.features"][arrays["rows.test"]] = np.nan
    spoiled["target"][arrays["rows.test"]] = 0
    poisoned = registry.unpack(config, spoiled)
    assert np.isnan(poisoned.raw("test")["features"]).all() and np.isfinite(poisoned.raw("val")["features"]).all()
    elsewhere = replace(context, run=Run.create(tmp_path / "else", "run", {}), task=poisoned)
    for ctx in (context, elsewhere):
        search(tiny, ctx, settings(minimize="params"))
    facts = ("number", "params", "value", "cost", "epochs")
    told = [[[row[name] for name in facts] for row in history(ctx.run)] for ctx in (context, elsewhere)]
    assert told[0] == told[1]
    for one, other in zip(context.run.trials(), elsewhere.run.trials(), strict=True):
        assert one.metrics == other.metrics
        assert context.run.scores(one).tobytes() == elsewhere.run.scores(other).tobytes()
        a, b = context.run.weights(one), elsewhere.run.weights(other)
        assert {n: w.numpy().tobytes() for n, w in a.items()} == {n: w.numpy().tobytes() for n, w in b.items()}


def test_a_run_is_not_resumed_as_another_search(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(budget=replace(BUDGET, trials=1)))
    with pytest.raises(BadInput, match="another task, objective or budget"):
        search(tiny, context, settings(budget=replace(BUDGET, epochs=4)))
    search(tiny, context, settings(budget=replace(BUDGET, trials=2)))
    assert len(context.run.trials()) == 2


def test_the_time_left_is_told_without_a_time_budget(context: Context, tiny: Space) -> None:
    seen: list[Status] = []
    search(tiny, context, settings(budget=replace(BUDGET, trials=3)), seen.append)
    assert seen[0].seconds_to_go is None and seen[-1].seconds_to_go == 0
    spent = [row["seconds"] for row in history(context.run)]
    after_one = next(status for status in seen if status.done == 1)
    assert after_one.seconds_to_go == pytest.approx(2 * spent[0]), "two are open, and one has taken so long"


def test_a_password_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "postgresql://me:s3cret@db.example:5432/study"
    bare = "postgresql://me@db.example:5432/study"
    assert without_password(whole) == without_password(bare) == bare
    assert without_password(f"--storage={whole}") == f"--storage={bare}"
    assert "s3cret" not in without_password("postgresql://me:a@s3cret@db/study")
    assert without_password("postgresql://db/x?user=me&password=s3cret") == "postgresql://db/x?user=me"
    for plain in ("sqlite:////tmp/a.db", "postgresql://db:5432/x", "runs/x", "--name", "C:/a@b"):
        assert without_password(plain) == plain
    monkeypatch.delenv("SEARCHKIT_STORAGE", raising=False)
    assert whole_url(bare) == bare
    monkeypatch.setenv("SEARCHKIT_STORAGE", whole)
    assert whole_url(bare) == whole and whole_url("postgresql://me@other/study") == "postgresql://me@other/study"
    assert "SEARCHKIT_STORAGE" not in worker_environment([])


def test_coordinators_share_a_study_by_url(tmp_path: Path, task: Task, tiny: Space) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for place in ("one", "two"):
        context = Context(Run.create(tmp_path / place, "run", {}), task, lambda name: tiny, echo=lambda line: None)
        trials = 2 if place == "one" else 5
        search(tiny, context, settings(storage=url, budget=replace(BUDGET, trials=trials)))
        assert len(history(context.run)) == trials
        assert len(context.run.trials()) == (2 if place == "one" else 3), "the trials of both count"


# ── rungs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(POINTS)
def test_rank_0_is_the_front_and_each_rank_the_front_of_the_rest(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    found = successive_halving.ranks([tuple(map(float, p)) for p in points])
    for rank in range(max(found) + 1):
        rest = [p for p, r in zip(points, found, strict=True) if r >= rank]
        here = [p for p, r in zip(points, found, strict=True) if r == rank]
        assert here and all(not any(beats(q, p) for q in rest) for p in here)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(2, 4))
def test_with_the_metric_alone_the_best_share_goes_on(values: list[float], eta: int) -> None:
    seen = {n: (value,) for n, value in enumerate(values)}
    kept = [n for n in seen if successive_halving.goes_on(n, seen, eta)]
    assert len(kept) == -(-len(values) // eta)
    assert max(seen[n] for n in kept) <= min((seen[n] for n in seen if n not in kept), default=(99.0,))


# ── drawing candidates ───────────────────────────────────────────────────────────────────────────────────────────────

DISTRIBUTIONS = [
    CategoricalDistribution(("a", "b", "c")),
    IntDistribution(2, 11, step=3),
    IntDistribution(1, 512, log=True),
    FloatDistribution(0.5, 2.5),
    FloatDistribution(1e-4, 1e-1, log=True),
    FloatDistribution(0.0, 0.5, step=0.1),
    FloatDistribution(0.0, 0.3, step=0.1),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_whatever_is_chosen_is_in_the_distribution(distribution: Any) -> None:
    rng = random.Random(0)
    ways: list[Callable[..., Any]] = [at(0.0), at(0.5), at(1.0), *[at_random(rng)] * 50]
    for way in ways:
        value = way("x", distribution)
        beside = neighbor(distribution, value, rng)
        for chosen in (value, beside):
            assert holds(distribution, chosen)
            assert distribution._contains(distribution.to_internal_repr(chosen))  # or the study refuses it
    assert grid_values(distribution) == sorted(set(grid_values(distribution)))


def test_the_grid_has_every_leaf_of_a_conditional_space_once(tiny: Space, task: Task) -> None:
    def sample(choose: Any) -> Any:
        return draw(replace(tiny, training=replace(tiny.training, ranges={})), task.spec, choose, epochs=1, way="grid")

    leaves = grid_leaves(sample, at_most=10_000)
    assert leaves is not None
    widths = len(grid_values(IntDistribution(4, 32, step=4)))
    assert len(leaves) == len({leaf.key for leaf in leaves})
    # three layers of four are infeasible before the activation is asked for
    assert len(leaves) == 2 * (widths + widths**2 + widths**3 - 1) + 1
    assert grid_leaves(sample, at_most=100) is None


def test_the_descent_goes_on_where_a_change_closes_a_branch(tiny: Space, context: Context) -> None:
    """The smaller choice of "branch" asks for no "wide", which the descent had still before it."""

    def sample(trial: Trial, spec: DataSpec) -> Any:
        branch = trial.suggest_categorical("branch", ["open", "closed"])
        wide = trial.suggest_int("wide", 20, 32, step=4) if branch == "open" else 4
        return tiny.arch((wide, trial.suggest_int("width", 4, 32, step=4)), "relu")

    space = replace(tiny, sample=sample)
    start = draw(space, context.task.spec, like({"width": 8}, at(0.0)), epochs=1, way="test")
    assert start.params == {**start.params, "branch": "open", "wide": 20, "width": 8}
    found = _descend(space, context, start, lambda candidate: float(sum(candidate.arch.widths)))
    assert found.arch.widths == (4, 4)


def test_an_infeasible_sample_keeps_its_reason(tiny: Space, task: Task) -> None:
    candidate = draw(tiny, task.spec, lambda name, d: at(1.0 if name == "depth" else 0.0)(name, d), epochs=1, way="x")
    assert candidate.arch is None and "too narrow" in candidate.reason


# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_random_so_far_is_the_expected_best_of_k_draws() -> None:
    assert random_so_far([3.0, 1.0, 2.0], "maximize") == pytest.approx([2.0, 8 / 3, 3.0])
    assert random_so_far([3.0, 1.0, 2.0], "minimize") == pytest.approx([2.0, 4 / 3, 1.0])


def test_importances_are_shares(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(budget=Budget(trials=8, epochs=1, rungs=1), sampler="random"))
    found = importances(context.run)
    assert {"depth", "width0", "activation", "train.lr"} <= set(found)
    assert sum(found.values()) == pytest.approx(1.0) and min(found.values()) >= 0.0


# ── families from files ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "has no SPACE"),
        ("SPACE = 3", "a SPACE that is a int"),
        ("import nothing_of_this_name", r"line 1: ModuleNotFoundError"),
        ("\n\n1 / 0", r"line 3: ZeroDivisionError"),
        ("def f(:", "line 1: SyntaxError"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_a_family_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "family.py").write_text(text)
    with pytest.raises(BadInput, match=said):
        load_space(tmp_path / "family.py")


def test_a_family_travels_as_text(tmp_path: Path, task: Task) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "_blocks.py").write_text("WIDTHS = (4, 32)\n")
    text = search_driver.TINY.read_text().replace("import nn\n", "import nn\n\nfrom _blocks import WIDTHS\n", 1)
    (folder / "mine.py").write_text(text.replace("4, 32, step=4", "*WIDTHS, step=4"))
    source = source_of(load_space(folder / "mine.py"))
    (folder / "mine.py").unlink()
    (folder / "_blocks.py").unlink()
    there = materialize(source)
    candidate = draw(there, task.spec, at(0.5), epochs=1, way="x")
    assert sum(p.numel() for p in there.build(candidate.arch, task.spec).parameters()) > 0


def test_a_missing_family_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere.py"):
        load_space(tmp_path / "nowhere.py")
