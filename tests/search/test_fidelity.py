"""Rungs on a part of the data: which parts a time affords, what a task gives of itself, and a search that uses them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_search import settings

from searchkit.context import Context
from searchkit.core.deadline import Deadline
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Space
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.onnx import measure
from searchkit.search import jobs, time_planning
from searchkit.search.coordinator import search
from searchkit.search.fidelity import Reduced, data_epochs, reduced_within, share_of_a_trial, with_reduced
from searchkit.search.time_plan import TimePlan
from searchkit.tasks import registry

WHOLE = (1.0, 1.0, 1.0)


def test_the_work_of_rungs_by_hand() -> None:
    assert data_epochs((1, 4, 12)) == [1, 3, 8]
    assert data_epochs((1, 4, 12), Reduced((0.25, 0.5, 1.0), WHOLE)) == [0.25, 1.5, 8]
    assert data_epochs((1, 4, 12), Reduced((0.5, 1.0, 1.0), (0.5, 0.5, 1.0))) == [0.125, 0.75, 8]
    assert share_of_a_trial((1, 4, 12), 3) == pytest.approx((1 + 3 / 3 + 8 / 9) / 12)
    assert share_of_a_trial((1, 4, 12), 3, Reduced((0.25, 0.5, 1.0), WHOLE)) == pytest.approx(
        (0.25 + 1.5 / 3 + 8 / 9) / 12
    )


def parts(affordable: float, rungs: tuple[int, ...] = (1, 4, 12), **more: int) -> tuple[float, ...] | None:
    found = reduced_within(affordable, rungs, 3, **{"steps": 10_000, "least_steps": 100, **more})
    assert found is None or set(found.sides) == {1.0}
    return found and found.parts


def test_the_largest_parts_that_are_affordable_are_taken() -> None:
    whole = share_of_a_trial((1, 4, 12), 3)
    assert parts(whole) is None and parts(1.0) is None
    half = share_of_a_trial((1, 4, 12), 3, Reduced((0.5, math.sqrt(0.5), 1.0), WHOLE))
    assert parts(whole - 1e-9) == parts(half) == pytest.approx((0.5, math.sqrt(0.5), 1.0))
    assert parts(half - 1e-9) == pytest.approx((0.25, 0.5, 1.0))
    assert parts(0.0) == pytest.approx((1 / 16, 1 / 4, 1.0)), "the least that there is"


def test_a_first_rung_keeps_steps_enough_to_compare() -> None:
    assert parts(0.0, steps=400) == pytest.approx((0.25, 0.5, 1.0))  # an eighth would be 50 steps
    assert parts(0.0, steps=199) is None
    assert parts(0.0, (12,)) is None, "the only rung is the last, which sees all data"


@pytest.fixture(scope="module")
def digits() -> Any:
    return registry.load({"task": "digits", "split_seed": 0})


def test_parts_are_nested_and_have_their_share_of_each_class(digits: Any) -> None:
    rows = {share: set(digits.part(share).data.rows["train"]) for share in (0.125, 0.5, 1.0)}
    assert rows[0.125] < rows[0.5] < rows[1.0] == set(digits.data.rows["train"])
    every = np.bincount(digits.data.target_of("train"))
    assert all(np.abs(np.bincount(digits.part(s).data.target_of("train")) - s * every).max() <= 1 for s in (0.125, 0.5))
    assert digits.part(0.5) is digits.part(0.5), "made once"
    fresh = registry.load({"task": "digits", "split_seed": 0})
    assert set(fresh.part(0.125).data.rows["train"]) == rows[0.125], "the same in another process"


def test_a_part_is_the_same_task_but_for_its_training_examples(digits: Any) -> None:
    part, training = digits.part(0.25), Training(batch_size=50)
    assert part.n_examples("train") == pytest.approx(digits.n_examples("train") / 4, abs=10)
    assert part.n_examples("val") == digits.n_examples("val") and part.spec == digits.spec
    seen = sum(len(b.target) for b in part.batches("train", training, seed=0, device="cpu"))
    assert seen == part.n_examples("train")
    for ours, theirs in zip(part.preprocessor().buffers(), digits.preprocessor().buffers(), strict=True):
        assert bool((ours == theirs).all()), "scaled by the statistics of all data"
    whole = sum(len(b.target) for b in digits.batches("train", training, seed=0, device="cpu"))
    assert whole == digits.n_examples("train"), "the task itself is left alone"


@pytest.mark.parametrize("name", ["karate", "dates"])
def test_a_task_whose_examples_belong_together_has_no_parts(name: str) -> None:
    try:
        task: Any = registry.load({"task": name})
    except Exception as error:
        pytest.skip(str(error))
    assert getattr(task, "part", lambda share: None)(0.5) is None


def test_rungs_train_on_their_parts_and_the_last_on_all(
    context: Context, tiny: Space, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int]] = []
    fit = type(task).fit

    def watched(self: Any, model: Any, plan: FitPlan, state: TrainState) -> TrainState:
        trained.append((plan.until, self.n_examples("train")))
        return fit(self, model, plan, state)

    monkeypatch.setattr(type(task), "fit", watched)
    context.run.write_json(
        "pace.json", {"tiny": freeze(TimePlan("fp32", False, 4, data_parts=(0.25, 1.0), sides=(1.0, 1.0)))}
    )
    budget = Budget(trials=4, epochs=4, rungs=2, eta=2, least_rung_steps=1)
    search(tiny, context, settings(budget=budget, sampler="random"))
    n = task.n_examples("train")
    assert {until for until, _ in trained} == {2, 4} and len([1 for until, _ in trained if until == 4]) < 4
    assert all(abs(rows - n / 4) <= 2 if until == 2 else rows == n for until, rows in trained)


def test_a_plan_of_an_earlier_version_trains_on_all_data(
    context: Context, tiny: Space, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: dict[str, Any] = freeze(TimePlan("fp32", False, 2))
    del plan["data_parts"], plan["sides"]
    context.run.write_json("pace.json", {"tiny": plan})
    seen: list[float] = []
    monkeypatch.setattr(jobs, "_seen", lambda task, job, net: seen.extend((job.data_part, job.sides)) or task)
    search(tiny, context, settings(budget=replace(settings().budget, trials=2)))
    assert set(seen) == {1.0}


@pytest.mark.parametrize("holds", [30.0, 6.0, 0.8])
def test_a_time_for_fewer_than_twelve_trials_is_stretched_by_parts_of_the_data(
    context: Context, tiny: Space, task: Task, monkeypatch: pytest.MonkeyPatch, holds: float
) -> None:
    """holds: trials of the middle candidate, on a machine whose steps take time by its parameters."""

    def quickest(space: Space, ctx: Context, candidate: Any, choices: Any, *, rounds: int = 5) -> Any:
        return choices[0], 1e-3 * measure.params(space.build(candidate.arch, ctx.task.spec))

    said: list[str] = []
    monkeypatch.setattr(time_planning, "quickest", quickest)
    monkeypatch.setattr(time_planning, "own_work", lambda *given: 0.0)
    middle = time_planning.middle_candidate(tiny, context, epochs=9)
    assert middle is not None
    whole = 1.1 * quickest(tiny, context, middle, [0])[1] * task.n_examples("train") * 9
    seconds = holds * share_of_a_trial((1, 3, 9), 3) * whole
    budget = Budget(trials=40, epochs=9, rungs=3, eta=3, least_rung_steps=1, seconds=2 * seconds)
    timed = replace(context, deadline=Deadline.after(seconds), echo=said.append)
    plan = time_planning.make_time_plan(tiny, timed, settings(budget=budget, plans_epochs=False))
    assert plan.trials is not None
    if holds == 30.0:
        assert plan.data_parts is None and plan.trials in (29, 30)
    elif holds == 6.0:
        assert plan.data_parts == pytest.approx((1 / 8, math.sqrt(1 / 8), 1.0)) and 12 <= plan.trials <= 14
        assert plan.middle_trials is None, "of middling candidates"
    else:
        assert plan.data_parts == pytest.approx((1 / 8, math.sqrt(1 / 8), 1.0)), "less would be less than a step"
        assert plan.middle_trials == 1, "so cheaper ones are chosen as well"
    assert any("the first rung trains on" in line for line in said) is (plan.data_parts is not None)
    assert time_planning.make_time_plan(tiny, timed, settings(budget=budget)) == plan, "read again from the run"


@pytest.mark.parametrize(
    ("work", "epochs", "part"),
    [
        (10.0, 12, None),  # time for all: the longest, on all data
        (2.8, 12, 0.5),  # 1 + 3/3 + 8/9 epochs of all data would be 2.9
        (1.5, 12, 1 / 8),
        (0.8, 8, 1 / 16),  # 12 epochs cost 1.2 at least
        (0.1, 5, 1 / 16),  # nothing is cheap enough; two rungs of 1 and 3 epochs would cost more than 1, 2 and 5
    ],
)
def test_what_parts_save_is_for_a_longer_training(work: float, epochs: int, part: float | None) -> None:
    budget = Budget(trials=12, epochs=3, rungs=3, eta=3, least_rung_steps=1)
    longer, found = with_reduced(budget, 12, work, steps=10_000)
    assert longer.epochs == epochs and (found.parts[0] if found else None) == part
    if work > 0.1:
        rungs = longer.rung_epochs(10_000)
        assert sum(w / 3**k for k, w in enumerate(data_epochs(rungs, found))) <= work


def test_pictures_are_made_smaller_before_rows_are_left_out() -> None:
    def seen(affordable: float) -> tuple[float, float]:
        found = reduced_within(affordable, (1, 4, 12), 3, steps=10_000, least_steps=100, sided=True)
        return (found.sides[0], found.parts[0]) if found else (1.0, 1.0)

    costs = [share_of_a_trial((1, 4, 12), 3, Reduced(WHOLE, (s, math.sqrt(s), 1.0))) for s in (1.0, 0.75, 0.5)]
    assert [seen(cost) for cost in costs] == [(1.0, 1.0), (0.75, 1.0), (0.5, 1.0)]
    assert seen(costs[-1] - 1e-9) == (0.5, 0.5) and seen(0.0) == (0.5, 1 / 16)


# ── smaller pictures ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_shrunk_task_trains_and_scores_on_smaller_pictures(digits: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (120, 16, 12)).astype(np.uint8)
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(120) % 3)
    task: Any = registry.load({"data": str(tmp_path / "t.npz")})
    small = task.shrunk(0.75)
    batch = next(iter(small.batches("train", Training(batch_size=8), seed=0, device="cpu")))
    assert batch.inputs[0].shape == (8, 1, 12, 9) and task.spec == small.spec
    whole = next(iter(task.batches("train", Training(batch_size=8), seed=0, device="cpu")))
    assert whole.inputs[0].shape == (8, 1, 16, 12), "the task itself is left alone"
    assert float(batch.inputs[0].std()) < 0.8 < float(whole.inputs[0].std()), "neighbors are averaged"
    assert small.preprocessor()(torch.from_numpy(x[:2])).shape == (2, 1, 12, 9)
    assert task.shrunk(0.75) is small and task.shrunk(0.5) is None, "six pixels are too few"
    assert digits.shrunk(0.75) is None
    assert registry.load({"task": "breast-cancer", "split_seed": 0}).shrunk(0.5) is None  # type: ignore[attr-defined]


def test_a_network_that_flattens_trains_on_whole_pictures(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (120, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(120) % 3)
    task: Any = registry.load({"data": str(tmp_path / "t.npz")})
    job: Any = SimpleNamespace(data_part=1.0, sides=0.5)
    pooled = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    assert jobs._seen(task, job, pooled) is task.shrunk(0.5) and jobs._seen(task, job, flat) is task
    assert pooled.training, "as it was"
