"""A search under limits and a time budget: what is refused, what is trained, and for how long."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import optuna
import pytest
from small_search import BUDGET, settings
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Limits, Space
from searchkit.core.training import Batch, FitPlan, TrainState
from searchkit.onnx import measure
from searchkit.search import coordinator, loop
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at
from searchkit.search.coordinator import search
from searchkit.search.policy import Halving, Next
from searchkit.search.results import failures, history


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
    from searchkit.search.time_plan import TimePlan

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
    from searchkit.search.fidelity import share_of_a_trial

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


@pytest.mark.parametrize("has_a_value", [True, False], ids=["trained", "failed"])
def test_a_trial_that_the_time_ends_is_logged_at_the_rung_that_ran(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch, has_a_value: bool
) -> None:
    """The first trial would go on, and the time is over."""
    over = []

    class Ending(Deadline):
        def left(self) -> float:
            return 0.0 if over else math.inf

    def decide(self: Halving, *args: Any, **kwargs: Any) -> Next:
        over.append(real(self, *args, **kwargs))
        return over[-1]

    real = Halving.decide
    monkeypatch.setattr(Halving, "decide", decide)
    monkeypatch.setattr(loop, "has_a_value", lambda outcome, metric: has_a_value)
    context = replace(context, deadline=Ending(math.inf))
    with nullcontext() if has_a_value else pytest.raises(BadInput, match="shorter than one trial"):
        search(tiny, context, settings())
    assert over == [Next.GO_ON]
    rows = [(row["event"], row["trial"], row["rung"]) for row in context.run.lines("search.jsonl") if "trial" in row]
    assert rows == [("dispatch", 0, 0), ("trained" if has_a_value else "failed", 0, 0)]
    assert not list((context.run.path / "rungs").iterdir()), "a state outlived its trial"


def test_a_first_rung_is_counted_once_when_a_search_is_resumed(context: Context, tiny: Space) -> None:
    """Whether its trial ended there, went on, or was logged twice; and of this family alone."""
    for event, trial, rung, seconds in (
        ("rung", 0, 0, 1.0), ("trained", 0, 1, 9.0), ("trained", 1, 0, 2.0), ("rung", 2, 0, 3.0), ("trained", 2, 0, 3.0)
    ):  # fmt: skip
        row = {"event": event, "space": "tiny", "trial": trial, "rung": rung, "seconds": seconds}
        context.run.append_line("search.jsonl", {**row, "epochs": 1, "loss": 0.1})
        context.run.append_line("search.jsonl", {**row, "epochs": 1, "loss": 0.1, "space": "other", "seconds": 7.0})
    assert coordinator._first_rungs(context, ["tiny"]) == [1.0, 2.0, 3.0]
