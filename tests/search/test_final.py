"""The final: the winner is trained on with the time that is left, and the schedule ends with the time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_search import settings

from searchkit import train
from searchkit.context import Context
from searchkit.core import schedule
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput
from searchkit.core.interrupt import Interrupted
from searchkit.core.space import Space
from searchkit.core.task import Task
from searchkit.core.time_shares import EVIDENCE_SECONDS, FINAL_SHARE, STAGES_SECONDS, share_out
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.search import final, time_planning
from searchkit.search.coordinator import search
from searchkit.search.final import Final, trained_on
from searchkit.search.results import winners
from searchkit.tasks import registry


@pytest.fixture
def winner(context: Context, tiny: Space) -> Artifact:
    search(tiny, context, settings(budget=replace(settings().budget, trials=2)))
    return winners(context.run)[0]


def stage(seconds: float = 60.0, *, epochs: int = 6, left: float = 1e6) -> Final:
    return Final(epochs, seconds, Deadline.after(left))


def test_the_winner_is_trained_on_and_read_again(winner: Artifact, context: Context) -> None:
    found = stage()(winner, context)
    assert found.stage == "Final" and found.parent == winner.id and found.arch == winner.arch
    assert found.training["epochs"] == 6 and [row["epoch"] for row in context.run.log(found)] == [1, 2, 3, 4, 5, 6]
    metric, notes = context.task.goal.metric, found.notes
    assert notes["before"] == winner.metrics[metric] and found.metrics[metric] == notes[notes["kept"]]
    assert np.array_equal(context.scores(context.network(found)), context.run.scores(found)), "the weights that scored"
    assert stage()(winner, context) == context.run.load(found.id), "nothing is trained twice"
    assert not list((context.run.path / "rungs").iterdir()), "the state is dropped"


def test_a_final_that_was_killed_goes_on_from_its_last_state(
    winner: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final, "SAVED_EVERY", 0.0)  # after each epoch
    fit, untils = type(context.task).fit, []

    def killed(self: Any, model: Any, plan: FitPlan, state: TrainState) -> TrainState:
        if plan.until == 4 and untils.count(4) == 0:
            untils.append(4)
            raise Interrupted("killed")
        untils.append(plan.until)
        return fit(self, model, plan, state)

    monkeypatch.setattr(type(context.task), "fit", killed)
    with pytest.raises(Interrupted):
        stage()(winner, context)
    found = stage()(winner, context)
    assert untils == [1, 2, 3, 4, 4, 5, 6]
    assert [row["epoch"] for row in context.run.log(found)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("better", [True, False])
def test_the_better_on_val_is_kept(
    winner: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    metric = context.task.goal.metric
    judged = context.task.evaluate
    shift = 10.0 if context.task.goal.better(10.0, 0.0) == better else -10.0

    def evaluate(predict: Any, split: Any) -> Any:
        found = judged(predict, split)
        return replace(found, metrics={**found.metrics, metric: found.metrics[metric] + shift})

    monkeypatch.setattr(context.task, "evaluate", evaluate, raising=False)
    found, before = stage()(winner, context), context.run.weights(winner)
    assert found.notes["kept"] == ("after" if better else "before")
    same = all(torch.equal(value, before[name]) for name, value in context.run.weights(found).items())
    assert same != better and (found.metrics == winner.metrics) != better


def test_without_time_or_after_a_divergence_the_winner_stays(
    winner: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage(left=final.LEAST_SECONDS - 1)(winner, context) is winner

    def diverges(*given: Any) -> Any:
        raise train.Diverged("the loss became nan")

    monkeypatch.setattr(type(context.task), "fit", diverges)
    assert stage()(winner, context) is winner


def test_a_trial_is_taken_as_far_as_it_was_trained(winner: Artifact, context: Context) -> None:
    assert trained_on(context.run, winner) is winner
    short, long = stage(30.0)(winner, context), stage(90.0, epochs=2)(winner, context)
    assert short.id != long.id and trained_on(context.run, winner).id == long.id
    others = [trial for trial in context.run.trials() if trial.id != winner.id]
    assert all(trained_on(context.run, trial) is trial for trial in others)


# ── the schedule by the clock ────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """A monotonic clock on which each reading takes a hundredth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now

    def thread_time(self) -> float:
        return self.now


STEP = train._step_


def rates(
    plan: FitPlan, task: Task, monkeypatch: pytest.MonkeyPatch, states: int = 1
) -> tuple[list[float], TrainState]:
    """The learning rates of a training that ends with its time, in `states` calls."""
    seen: list[float] = []

    def watched(model: Any, objective: Any, plan: Any, optimizer: Any, batch: Any, *, weight: float) -> Any:
        seen.append(optimizer.param_groups[0]["lr"])
        return STEP(model, objective, plan, optimizer, batch, weight=weight)

    monkeypatch.setattr(train, "_step_", watched)
    torch.manual_seed(0)
    net, state = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), TrainState()
    for number in range(states):
        clock = Clock()
        for module in (train, schedule):
            monkeypatch.setattr(module, "time", clock)
        left = plan.seconds * (1 - number / states)
        until = plan.until if number == states - 1 else 10 * (number + 1)
        state = train.fit(net, task, replace(plan, seconds=left, until=until), state)
        assert clock.now < 1e6
    return seen, state


TRAINING = Training(lr=1.0, optimizer="sgd", schedule="cosine", warmup=0.1, epochs=1000, batch_size=611)


def test_a_training_that_fills_its_time_ends_its_schedule_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    plan = FitPlan(TRAINING, seed=0, until=1000, seconds=5.0, fills=True)
    seen, state = rates(plan, digits, monkeypatch)
    assert state.numbers["stopped_by"] == "time" and state.epoch < 1000
    peak = int(np.argmax(seen))
    assert max(seen) > 0.98 and peak / len(seen) == pytest.approx(0.1, abs=0.03), "a tenth is warm-up"
    assert seen[len(seen) * 55 // 100] == pytest.approx(0.5, abs=0.05), "half of the cosine"
    assert seen[-1] < 0.01 and all(a >= b for a, b in zip(seen[peak:], seen[peak + 1 :], strict=False))
    plain, _ = rates(replace(plan, fills=False), digits, monkeypatch)
    assert plain[-1] > 0.5, "by its epochs the same training is cut off in its warm-up or soon after"


def test_a_training_that_fills_its_time_ends_with_its_epochs_if_those_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    training = replace(TRAINING, epochs=20)
    seen, state = rates(FitPlan(training, seed=0, until=20, seconds=1e5, fills=True), digits, monkeypatch)
    plain, _ = rates(FitPlan(training, seed=0, until=20, seconds=math.inf), digits, monkeypatch)
    assert state.epoch == 20 and seen == pytest.approx(plain, abs=1e-3)


def test_a_schedule_by_the_clock_goes_on_where_an_earlier_call_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    plan = FitPlan(TRAINING, seed=0, until=1000, seconds=5.0, fills=True)
    seen, state = rates(plan, digits, monkeypatch, states=2)
    after = seen[int(np.argmax(seen)) :]
    assert max(abs(a - b) for a, b in zip(after, after[1:], strict=False)) < 0.05, "no jump between the calls"
    assert seen[-1] < 0.01 and 0.99 <= state.numbers["progress"] <= 1.0


# ── the shares of a time budget ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seconds", [60.0, 180.0, 600.0, 3600.0, 36_000.0])
@pytest.mark.parametrize("prunes", [True, False])
def test_a_time_budget_is_shared_out(seconds: float, prunes: bool) -> None:
    shares = share_out(seconds, stages=True, prunes=prunes)
    assert shares.final >= FINAL_SHARE * seconds and shares.search >= 0.3 * seconds - 1e-9
    assert shares.both <= 0.66 * seconds or seconds - shares.both >= EVIDENCE_SECONDS + STAGES_SECONDS
    alone = share_out(seconds, stages=False, prunes=False)
    assert alone.both == pytest.approx(seconds) and alone.final == pytest.approx(0.6 * seconds)
    if prunes:
        assert shares.both < share_out(seconds, stages=True, prunes=False).both or seconds < 180


def test_a_raised_budget_is_shared_with_the_search() -> None:
    shares = share_out(3600.0, stages=False, prunes=False)
    assert shares.search_left(0.0) == pytest.approx(1440.0) and shares.search_left(1400.0) == pytest.approx(40.0)
    assert shares.search_left(1600.0) == pytest.approx(800.0) and shares.search_left(4000.0) == 0.0


# ── a glimpse of val ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_learning_curve_is_drawn_from_a_glimpse_of_val(monkeypatch: pytest.MonkeyPatch) -> None:
    digits: Any = registry.load({"task": "digits", "split_seed": 0})
    small = digits.glimpse(100)
    assert small.n_examples("val") == pytest.approx(100, abs=10) and digits.glimpse(216) is digits
    assert set(small.data.rows["val"]) < set(digits.data.rows["val"]) and small.n_examples("train") == 1222
    seen: list[int] = []
    validation = train.validation
    monkeypatch.setattr(train, "WATCHED", 100)

    def watched(model: Any, task: Task, device: str) -> float:
        seen.append(task.n_examples("val"))
        return validation(model, task, device)

    monkeypatch.setattr(train, "validation", watched)
    for patience in (0, 2):
        training = Training(epochs=1, patience=patience)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        train.fit(net, digits, FitPlan(training, 0, 1, validate=True), TrainState())
    assert seen == [small.n_examples("val"), 216], "early stopping sees all of val"


def test_a_search_that_has_trained_nothing_takes_the_time_of_the_final(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = replace(settings().budget, trials=3)
    late = replace(context, deadline=Deadline.after(0.0))
    with pytest.raises(BadInput, match="shorter than one trial"):
        search(tiny, late, settings(budget=budget))
    search(tiny, late, settings(budget=budget, final_seconds=600.0))
    assert len(context.run.trials()) == 1, "the first trial, and then the time is over"


def test_a_winner_that_was_scored_on_smaller_pictures_is_scored_anew(winner: Artifact, context: Context) -> None:
    metric = context.task.goal.metric
    small = replace(winner, metrics={**winner.metrics, metric: 0.123}, notes={**winner.notes, "sides": 0.5})
    assert stage()(small, context).notes["before"] == winner.metrics[metric]


def test_a_candidate_is_quick_enough_for_the_final(
    context: Context, tiny: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its final training goes through the data eight times at least."""
    monkeypatch.setattr(time_planning, "quickest", lambda space, ctx, candidate, choices, **how: (choices[0], 1e-6))
    monkeypatch.setattr(time_planning, "own_work", lambda *given: 0.0)
    budget = replace(settings().budget, epochs=4, seconds=2000.0)
    timed = replace(context, deadline=Deadline.after(1000.0))
    asked = settings(budget=budget, workers=2, executor="processes", final_seconds=80.0)
    plan = time_planning.make_time_plan(tiny, timed, asked)
    assert plan.epochs == 4 and plan.most_seconds == pytest.approx(4 * 2 * 80.0 / 8)
