"""Learning curves of a report: in the order of their steps, and of no more points than can be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchkit.core.artifact import Artifact
from searchkit.core.goal import Goal
from searchkit.report.data import _thinned, training_curves
from searchkit.run import Run


@pytest.mark.parametrize("n", [0, 1, 2, 119, 120, 121, 122, 239, 240, 241, 1_000, 1_201])
def test_a_curve_has_its_ends_and_at_most_120_points(n: int) -> None:
    epochs = [point["epoch"] for point in _thinned([{"epoch": k} for k in range(n)])]
    assert len(epochs) <= 120 and epochs == sorted(set(epochs))
    assert epochs == list(range(n)) if n <= 120 else epochs[0] == 0 and epochs[-1] == n - 1
    assert len({b - a for a, b in zip(epochs[:-2], epochs[1:-1], strict=True)}) <= 1


@pytest.mark.parametrize(
    ("stage", "field", "parts", "names"),
    [
        ("Prune", "step", range(1, 12), [f"pruned, step {step}" for step in range(1, 12)]),
        ("Distill", "candidate", ["control", "distilled"], ["control", "distilled"]),
        ("Prune", "epoch", [0], ["pruned"]),
    ],
)
def test_the_parts_of_a_stage_are_in_order(
    stage: str, field: str, parts: list[int | str], names: list[str], tmp_path: Path
) -> None:
    run = Run.create(tmp_path, "r", {})
    draft = Artifact("a" * 12, "mlp", {}, {}, (), {"stage": stage}, None)
    made = run.save(draft, log=[{"epoch": epoch, "loss": 1.0, field: part} for part in parts for epoch in (0, 1)])
    found = training_curves(run, [], [made], {}, Goal("accuracy", "maximize")).stages
    assert [curve.name for curve in found] == names and {len(curve.points) for curve in found} == {2}
