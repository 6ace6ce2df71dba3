"""The search's decisions one at a time, on numbers made up here: what is refused, compared, waited for and given up."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import search_driver
from optuna.trial import TrialState

from searchkit.context import Context
from searchkit.core.errors import BadInput, Infeasible, SearchkitError
from searchkit.core.space import Budget, Limits, Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search import coordinator, policy
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.search.coordinator import search
from searchkit.search.cost_model import CostModel
from searchkit.search.fidelity import share_of_a_trial
from searchkit.search.jobs import Outcome, run_job
from searchkit.search.results import history, random_so_far, winners
from searchkit.search.settings import SearchSettings
from searchkit.search.study import WORST, TrialStore
from searchkit.search.successive_halving import goes_on, order, ranks
from searchkit.tasks import registry

BUDGET = Budget(trials=3, epochs=1, rungs=1, eta=2, least_rung_steps=1)
TINY = load_space(search_driver.TINY)


@pytest.fixture(scope="module")
def task() -> Task:
    return registry.load({"task": "iris", "split_seed": 0})


@pytest.fixture
def ctx(tmp_path: Any, task: Task) -> Context:
    return Context(Run.create(tmp_path, "run", {}), task, lambda name: TINY, seed=1, echo=lambda line: None)


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**{"budget": BUDGET, "precision": "fp32", "sampler": "random", **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "anneal"}, "--sampler 'anneal' is unknown; choose gp, tpe, nsga2, random or grid."),
        ({"executor": "slurm"}, "--executor 'slurm' is unknown; choose inline, processes or ray."),
        ({"minimize": "energy"}, "--minimize 'energy' is unknown; choose latency, size, macs, params or none."),
        ({"precision": "fp16"}, "No precision named 'fp16'; choose auto, fp32, bf16."),
        ({"budget": replace(BUDGET, trials=0)}, "--trials 0 is out of range"),
        ({"budget": replace(BUDGET, epochs=0)}, "--epochs 0 is out of range"),
        ({"budget": replace(BUDGET, rungs=0)}, "--rungs 0 is out of range"),
        ({"budget": replace(BUDGET, eta=1)}, "--eta 1 is out of range"),
        ({"workers": 0, "executor": "ray"}, "--workers 0 is out of range"),
        ({"workers": 2}, "--workers 2 needs processes of its own, and --executor inline has one"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        settings(**changes)
    assert said in str(refused.value)


def test_settings_that_are_just_allowed() -> None:
    settings(budget=Budget(trials=1, epochs=1, rungs=1, eta=2), workers=1)
    settings(workers=2, executor="processes")
    costs = [settings(minimize=name).cost for name in ("latency", "size", "macs", "params")]
    assert costs == ["latency_ms", "size_bytes", "macs", "params"] and settings().cost is None


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_trials_are_ordered_by_rank_then_goal_then_number() -> None:
    losses = {5: (0.2, 9.0), 1: (0.2, 9.0), 2: (0.1, 10.0), 7: (0.3, 1.0), 3: (0.3, 9.5)}
    assert ranks([losses[n] for n in (5, 1, 2, 7, 3)]) == [0, 0, 0, 0, 1]
    assert order(losses) == [2, 1, 5, 7, 3]
    assert order({}) == [] and ranks([(1.0,), (2.0,), (1.0,)]) == [0, 1, 0]


@pytest.mark.parametrize(("n", "eta", "kept"), [(1, 3, 1), (3, 3, 1), (4, 3, 2), (6, 2, 3), (7, 2, 4)])
def test_the_best_share_rounded_up_goes_on(n: int, eta: int, kept: int) -> None:
    seen = {k: (float(-k),) for k in range(n)}
    assert [k for k in seen if goes_on(k, seen, eta)] == list(range(n - kept, n))


def test_the_share_of_a_trial_by_hand() -> None:
    assert share_of_a_trial((1, 2, 4), 2) == pytest.approx((1 + 1 / 2 + 2 / 4) / 4)
    assert share_of_a_trial((5,), 3) == 1.0


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_expected_best_of_some_draws_by_enumeration(direction: Any) -> None:
    from itertools import combinations

    values = [0.3, 0.9, 0.1, 0.5, 0.5]
    best = max if direction == "maximize" else min
    expected = [
        sum(best(c) for c in combinations(values, k)) / math.comb(5, k) for k in range(1, 6)
    ]  # fmt: skip
    assert random_so_far(values, direction) == pytest.approx(expected)
    assert random_so_far([], direction) == []


def test_the_winner_is_the_best_and_of_equals_the_cheaper(ctx: Context) -> None:
    search(TINY, ctx, settings(minimize="params"))
    one, two, three = ctx.run.trials()
    goal = ctx.task.goal.metric
    metrics = [{goal: 0.8, "params": 50.0}, {goal: 0.9, "params": 70.0}, {goal: 0.9, "params": 60.0}]
    made = [replace(a, metrics=m) for a, m in zip((one, two, three), metrics, strict=True)]
    run: Any = SimpleNamespace(trials=lambda: made, read_json=ctx.run.read_json, name="run")
    assert winners(run) == [made[2], made[0]], "the second is beaten by the third"
    about = ctx.run.read_json("search.json") or {}
    about["tiny"]["cost"] = None
    run.read_json = lambda name, kind=None: about
    assert winners(run) == [made[2]]
    about["tiny"]["direction"] = "minimize"
    assert winners(run) == [made[0]]
    run.trials = list
    assert winners(run) == []


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("directions", "expected"), [
    (("maximize",), [-WORST]), (("minimize",), [WORST]), (("maximize", "minimize"), [-WORST, 7.0]),
])  # fmt: skip
def test_a_refused_trial_has_the_worst_goal_and_the_cost_that_it_has(
    tmp_path: Any, task: Task, directions: Any, expected: list[float]
) -> None:
    ledger = TrialStore(f"sqlite:///{tmp_path / 'a.db'}", "study", directions, owner="", facts="f")
    candidate = draw(TINY, task.spec, at(0.5), epochs=1, way="test")
    facts = {"key": "k", "minimized": "macs", "cost": {"macs": 7, "params": 9}}
    refused = ledger.reject(candidate, facts, {"params": 0.25})
    assert refused.values == expected and refused.constraints == {"params": 0.25}
    assert refused.state == TrialState.COMPLETE and refused.user_attrs["status"] == "rejected"
    unknown = ledger.reject(candidate, {"key": "k", "minimized": "macs"}, {"infeasible": 1.0})
    assert unknown.values == [expected[0], *([WORST] if len(directions) == 2 else [])]
    started = ledger.start(candidate, facts)
    assert [t.number for t in ledger.unfinished()] == [started.number]
    ledger.fail(started, "diverged", "nan")
    failed = ledger.trials()[started.number]
    assert (failed.values, failed.constraints) == (expected, {"diverged": 1.0}) and not ledger.unfinished()
    cut = ledger.start(candidate, facts)
    ledger.abandon(cut, "no time")
    abandoned = ledger.trials()[cut.number]
    assert abandoned.state == TrialState.FAIL and not abandoned.constraints
    other = TrialStore(f"sqlite:///{tmp_path / 'a.db'}", "study", directions, owner="else", facts="f")
    mine = ledger.start(candidate, facts)
    assert [t.number for t in ledger.unfinished()] == [mine.number] and other.unfinished() == []
    for changed in ({"facts": "g"}, {"directions": ("minimize", "minimize")}):
        with pytest.raises(BadInput, match="made for another task, objective or budget"):
            TrialStore(
                f"sqlite:///{tmp_path / 'a.db'}",
                "study",
                **{"directions": directions, "owner": "", "facts": "f", **changed},
            )  # type: ignore[arg-type]


# ── costs before training ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_candidate_is_weighed_without_export(ctx: Context) -> None:
    candidate = draw(TINY, ctx.task.spec, at(0.5), epochs=1, way="test")
    params = sum(p.numel() for p in TINY.build(candidate.arch, ctx.task.spec).parameters())
    for limits, int8, fits in [
        (Limits(params=params), False, True),
        (Limits(params=params - 1), False, False),
        (Limits(size_bytes=round(params * 4.4 + 4001)), False, True),  # a tenth and 4 kB more than the weights
        (Limits(size_bytes=round(params * 4.4 + 3999)), False, False),
        (Limits(size_bytes=round(params * 1.1 + 4001)), True, True),
        (Limits(size_bytes=round(params * 1.1 + 3999)), True, False),
        (Limits(macs=1), False, False),
        (Limits(latency_ms=1e-9), False, True),  # not known before an export
    ]:
        book = CostModel(TINY, replace(ctx, limits=limits), cost=None, ship_int8=int8)
        assert book.weigh(candidate) == (float(params), fits), limits
        assert book.limited and not CostModel(TINY, ctx, cost=None, ship_int8=int8).limited
    infeasible = replace(candidate, arch=None, reason="planted")
    assert book.weigh(infeasible) is None
    with pytest.raises(Infeasible, match="planted"):
        book.cost(infeasible)


def test_weights_that_are_too_large_alone_are_not_exported(ctx: Context) -> None:
    candidate = draw(TINY, ctx.task.spec, at(1.0), epochs=1, way="test")
    book = CostModel(TINY, replace(ctx, limits=Limits(size_bytes=100)), cost=None, ship_int8=False)
    cost = book.cost(candidate)
    assert cost["size_bytes"] == round(0.8 * 4 * cost["params"]) and book.n_checks == 0
    assert book.cost(candidate) == cost, "kept"
    (row,) = [row for row in ctx.run.lines("search.jsonl") if row["event"] == "cost"]
    assert row["cost"] == cost and row["exported"] is False
    again = CostModel(TINY, replace(ctx, limits=Limits(size_bytes=100)), cost=None, ship_int8=False)
    assert again.known == book.known and again.n_checks == 0


# ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Troubled(coordinator.InProcess):
    """Runs jobs in this process, but for what `trouble` says of the number of the call."""

    trouble: dict[int, Outcome] = {}
    submitted: list[str] = []

    def wait(self, seconds: float) -> list[Outcome]:
        job = self.jobs.popleft()
        Troubled.submitted.append(job.key)
        planted = Troubled.trouble.get(len(Troubled.submitted))
        return [replace(planted, key=job.key) if planted else run_job(job, self.task, self.space)]


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> type[Troubled]:
    Troubled.trouble, Troubled.submitted = {}, []
    monkeypatch.setattr(coordinator, "InProcess", Troubled)
    return Troubled


LOST = Outcome("", "lost", "the worker ended")


def test_a_lost_job_is_run_again_and_the_third_loss_is_a_crash(ctx: Context, troubled: type[Troubled]) -> None:
    troubled.trouble = {1: LOST, 2: LOST, 4: LOST, 5: LOST, 6: LOST}
    search(TINY, ctx, settings())
    assert [row["status"] for row in history(ctx.run)] == ["trained", "failed", "trained"]
    (failed,) = [row for row in history(ctx.run) if row["status"] == "failed"]
    assert failed["failure"] == "crashed" and failed["reason"] == "its worker died 3 times"
    assert len(troubled.submitted) == 3 + 3 + 1


@pytest.mark.parametrize("failure", ["crashed", "diverged"])
def test_only_the_same_crash_five_times_in_a_row_stops_the_search(
    ctx: Context, troubled: type[Troubled], failure: str
) -> None:
    broken = Outcome("", failure, "planted")
    troubled.trouble = dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9), broken)
    search(TINY, ctx, settings(budget=replace(BUDGET, trials=10)))
    assert [row["status"] for row in history(ctx.run)].count("failed") == 8
    troubled.submitted.clear()
    troubled.trouble = dict.fromkeys(range(1, 6), broken)
    wider = settings(budget=replace(BUDGET, trials=16))
    if failure == "diverged":
        search(TINY, ctx, wider)
    else:
        with pytest.raises(SearchkitError, match="5 trials in a row failed in the same way"):
            search(TINY, ctx, wider)


def test_a_metric_that_is_no_number_is_a_failed_trial(ctx: Context, troubled: type[Troubled]) -> None:
    def wait(self: Troubled, seconds: float) -> list[Outcome]:
        job = self.jobs.popleft()
        outcome = run_job(job, self.task, self.space)
        assert outcome.metrics is not None
        return [replace(outcome, metrics={**outcome.metrics, "accuracy": math.nan}) if job.number == 1 else outcome]

    troubled.wait = wait  # type: ignore[method-assign]
    search(TINY, ctx, settings())
    assert [row["failure"] for row in history(ctx.run)] == [None, "diverged", None]
    assert "val accuracy is not a number" in history(ctx.run)[1]["reason"]


def test_a_search_that_refuses_too_much_ends_with_what_it_has(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "MOST_REJECTIONS", 2)
    told: list[str] = []
    limited = replace(ctx, limits=Limits(params=60), echo=told.append)
    try:
        search(TINY, limited, settings())
    except SearchkitError:
        pass
    statuses = [row["status"] for row in history(ctx.run)]
    assert statuses.count("rejected") == 6, "twice the budget of three"
    assert any("the search ends before 3 trials: 6 candidates were refused before training" in line for line in told)


def test_a_used_up_space_ends_the_search(ctx: Context) -> None:
    two = replace(TINY, sample=lambda trial, spec: TINY.arch((trial.suggest_int("w", 4, 8, step=4),), "relu"))
    single: Space = replace(two, training=replace(TINY.training, ranges={}))
    told: list[str] = []
    search(single, replace(ctx, echo=told.append), settings())
    assert [row["status"] for row in history(ctx.run)] == ["trained", "trained"]
    assert any("every candidate that the sampler finds has been seen" in line for line in told)


def test_the_study_says_what_it_is_for(ctx: Context) -> None:
    search(TINY, ctx, settings(minimize="params"))
    about = (ctx.run.read_json("search.json") or {})["tiny"]
    assert (about["goal"], about["direction"], about["cost"]) == ("accuracy", "maximize", "params")
    assert about["directions"] == ["maximize", "minimize"] and about["owner"] == "" and about["url"] is None
    assert [row["which"] for row in about["profile"]] == ["smallest", "middle", "largest"]
    params = [row["cost"]["params"] for row in about["profile"]]
    assert params == sorted(params) and params[0] < params[2]
    assert about["settings"]["budget"]["seconds"] is None and about["settings"]["storage"] is None
    study = optuna.load_study(study_name=about["study"], storage=f"sqlite:///{ctx.run.path / 'study.db'}")
    assert all(trial.user_attrs["minimized"] == "params" for trial in study.trials)
