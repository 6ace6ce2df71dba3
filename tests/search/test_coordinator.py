"""The coordinator's rules of time and comparison, on one that has not begun."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import search_driver

from searchkit.context import Context
from searchkit.core.deadline import Deadline
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space
from searchkit.run import Run
from searchkit.search import SearchSettings, coordinator
from searchkit.search.time_planning import make_time_plan
from searchkit.tasks import registry

TINY = load_space(search_driver.TINY)


@pytest.fixture
def ctx(tmp_path: Any) -> Context:
    iris = registry.load({"task": "iris", "split_seed": 0})
    return Context(Run.create(tmp_path, "run", {}), iris, lambda name: TINY, seed=1, echo=lambda line: None)


def settings(**changes: Any) -> SearchSettings:
    budget = Budget(trials=3, epochs=1, rungs=1, eta=2, least_rung_steps=1)
    return SearchSettings(**{"budget": budget, "precision": "fp32", "sampler": "random", **changes})


def planned(ctx: Context, **changes: Any) -> Any:
    """A coordinator before it runs."""
    asked = settings(**changes)
    return coordinator._Search(TINY, ctx, asked, lambda status: None, make_time_plan(TINY, ctx, asked))


def test_how_long_a_rung_may_take_before_it_counts_as_hung(ctx: Context) -> None:
    budget = Budget(trials=1, epochs=8, rungs=3, eta=2, least_rung_steps=1)
    found = planned(ctx, budget=budget, hang_seconds=10.0)
    assert found.rung_epochs == (2, 4, 8)
    flight: Any = SimpleNamespace(job=SimpleNamespace(rung=0, until=2), seconds=0.0)
    assert found._most_seconds(flight) == 10.0
    flight = SimpleNamespace(job=SimpleNamespace(rung=2, until=8), seconds=6.0)  # 4 epochs in 6 s: 6 s for 4 more
    assert found._most_seconds(flight) == pytest.approx(30.0)
    assert found._grace() == 20.0
    found.first_rungs = [5.0, 30.0, 15.0]
    assert found._first_rung_seconds() == 15.0 and found._grace() == 30.0


def test_a_first_rung_that_the_time_does_not_hold_is_not_begun(ctx: Context) -> None:
    found = planned(ctx)
    assert found._time_for_a_rung(), "no time budget"
    found.first_rungs = [50.0]
    assert found._time_for_a_rung()
    found.ctx = replace(ctx, deadline=Deadline.after(40.0))
    assert not found._time_for_a_rung()
    found.ctx = replace(ctx, deadline=Deadline.after(60.0))
    assert found._time_for_a_rung()
    found.first_rungs, found.ctx = [], replace(ctx, deadline=Deadline.after(0.0))
    assert not found._time_for_a_rung()


def test_a_nan_is_the_worst_loss(ctx: Context) -> None:
    trial: Any = SimpleNamespace(user_attrs={"cost": {"params": 12, "macs": 5}})
    assert planned(ctx)._losses(0.75, trial) == (-0.75,)
    with_cost = planned(ctx)
    with_cost.settings = settings(minimize="params")
    assert with_cost._losses(0.75, trial) == (-0.75, 12.0)
    assert with_cost._losses(math.nan, trial) == (math.inf, 12.0)
