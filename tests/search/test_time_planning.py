"""What a time budget holds: how many trials, of which candidates, and what is said of it before the first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from searchkit.context import Context
from searchkit.core.deadline import Deadline
from searchkit.core.quantities import show_seconds
from searchkit.core.space import Budget, Space
from searchkit.core.task import Task
from searchkit.onnx import measure
from searchkit.run import Run
from searchkit.search import time_planning
from searchkit.search.candidates import Candidate
from searchkit.search.coordinator import search
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.search.time_plan import TimePlan
from searchkit.search.time_planning import FEWEST, make_time_plan, middle_candidate

BUDGET = Budget(trials=12, epochs=3, rungs=1, least_rung_steps=1)
SECONDS_A_PARAM = 1e-3  # of an example, planted


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, task: Task, tiny: Space, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Context:
    """A machine on which a step takes time in proportion to the candidate's parameters."""

    def quickest(space: Space, ctx: Context, candidate: Candidate, settings, *, rounds: int = 5):  # type: ignore[no-untyped-def]
        return settings[0], SECONDS_A_PARAM * measure.params(space.build(candidate.arch, ctx.task.spec))

    monkeypatch.setattr(time_planning, "quickest", quickest)
    monkeypatch.setattr(time_planning, "own_work", lambda *args: 0.0)
    return Context(Run.create(tmp_path, "run", {}), task, lambda name: tiny, seed=1, echo=said.append)


def whole_training(ctx: Context, space: Space, candidate: Candidate) -> float:
    params = measure.params(space.build(candidate.arch, ctx.task.spec))
    return 1.1 * SECONDS_A_PARAM * params * ctx.task.n_examples("train") * BUDGET.epochs


def plan_for(context: Context, tiny: Space, share: float, **changes: object) -> tuple[TimePlan, float]:
    """share: of the middle candidate's whole training that the time is."""
    middle = middle_candidate(tiny, context, epochs=BUDGET.epochs)
    assert middle is not None
    whole = whole_training(context, tiny, middle)
    budget = Budget(trials=12, epochs=3, rungs=1, least_rung_steps=1, seconds=2 * share * whole)
    context.deadline = Deadline.after(share * whole)
    settings = SearchSettings(budget=budget, precision="fp32", **changes)  # type: ignore[arg-type]
    return make_time_plan(tiny, context, settings), whole


def test_a_time_for_enough_trials_is_used_on_any_candidate(context: Context, tiny: Space, said: list[str]) -> None:
    plan, whole = plan_for(context, tiny, 5.5)
    assert (plan.trials, plan.middle_trials, plan.enough_seconds) == (5, None, None)
    assert plan.most_seconds == pytest.approx(5.5 * whole / 2, rel=1e-3)
    assert len(said) == 2 and "short" not in said[1]


def test_a_time_for_two_trials_is_said_to_be_short_with_what_would_hold_five(
    context: Context, tiny: Space, said: list[str]
) -> None:
    plan, whole = plan_for(context, tiny, 2.5)
    assert plan.middle_trials == 2 and plan.trials == FEWEST
    assert plan.most_seconds == pytest.approx(2.5 * whole / FEWEST, rel=1e-3), "five of these fit into the time"
    assert plan.enough_seconds == pytest.approx(5 * whole)
    needed = show_seconds(2 * 5 * whole)  # the search has half of this time budget
    assert said[-1] == (
        "that is short: of middle-sized candidates it holds 2, so cheaper ones are chosen; a --time-budget of about "
        f"{needed}, more --workers or fewer rows would hold 5"
    )


def test_more_workers_hold_more(context: Context, tiny: Space, said: list[str]) -> None:
    plan, _ = plan_for(context, tiny, 2.6, workers=2, executor="processes")
    assert plan.middle_trials is None and plan.trials == 5


def test_the_limit_never_falls_below_what_the_cheapest_candidate_takes(context: Context, tiny: Space) -> None:
    plan, whole = plan_for(context, tiny, 0.3)
    assert plan.most_seconds is not None and plan.trials is not None
    smallest = 129 / measure.params(tiny.build(middle_candidate(tiny, context, epochs=3).arch, context.task.spec))  # type: ignore[union-attr]
    assert plan.most_seconds >= 1.2 * smallest * whole
    assert plan.trials < FEWEST


@pytest.mark.parametrize("share", [math.inf, 5.5], ids=["no time limit", "a time budget"])
@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "fp32", ("fp32", True)), ("cuda", "bf16", ("bf16", True)), ("cuda", "auto", ("bf16", True)),
     ("cpu", "fp32", ("fp32", False)), ("cpu", "bf16", ("bf16", False))],
)  # fmt: skip
def test_the_precision_that_was_asked_for_is_taken(
    context: Context, tiny: Space, device: str, precision: str, expected: tuple[str, bool], share: float
) -> None:
    context = replace(context, device=device, deadline=Deadline.after(share))
    plan = make_time_plan(tiny, context, SearchSettings(budget=BUDGET, precision=precision))
    assert (plan.precision, plan.channels_last) == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_also_if_no_candidate_can_be_timed(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(time_planning, "middle_candidate", lambda *args, **kwargs: None)
    assert make_time_plan(tiny, context, SearchSettings(budget=BUDGET, precision=precision)).precision == precision


def test_a_search_of_a_short_time_trains_cheaper_candidates(context: Context, tiny: Space, said: list[str]) -> None:
    """From one trial of the middle candidate to several of others; the plan is said before the first trial."""
    plan, whole = plan_for(context, tiny, 1.9)
    context.deadline = Deadline.after(math.inf)  # the planted machine is slow, this one is not
    search(tiny, context, SearchSettings(budget=BUDGET, precision="fp32"))
    trained = [a for a in context.run.trials()]
    assert len(trained) >= FEWEST
    seconds = [1.1 * SECONDS_A_PARAM * a.metrics["params"] * context.task.n_examples("train") * 3 for a in trained]
    assert max(seconds) <= plan.most_seconds < whole  # type: ignore[operator]
    assert [row["way"] for row in history(context.run)][0] == "largest that fits"
    assert said[2].startswith("that is short") and "candidate" in said[3], "said before the first trial"
