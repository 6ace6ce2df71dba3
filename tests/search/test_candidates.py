"""How candidates are drawn, and which of them go on at a rung."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from searchkit.context import Context
from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Space, Trial
from searchkit.core.task import Task
from searchkit.search import successive_halving
from searchkit.search.candidates import draw
from searchkit.search.choices import at, at_random, grid_leaves, grid_values, holds, like, neighbor
from searchkit.search.feasibility import _descend

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
