"""Learning curves of a report: in the order of their steps, and of no more points than can be seen."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from report_run import ACCURACY, add_line, make_run

from searchkit.report.data import _thinned, training_curves

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("n", [0, 1, 2, 119, 120, 121, 122, 239, 240, 241, 1_000, 1_201])
def test_a_curve_has_its_ends_and_at_most_120_points(n: int) -> None:
    epochs = [point["epoch"] for point in _thinned([{"epoch": k} for k in range(n)])]
    assert len(epochs) <= 120 and len(set(epochs)) == len(epochs) and epochs == sorted(epochs)
    assert epochs == list(range(n)) if n <= 120 else epochs[0] == 0 and epochs[-1] == n - 1
    assert len(set(b - a for a, b in zip(epochs[:-2], epochs[1:-1], strict=True))) <= 1


def test_the_steps_of_pruning_are_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    line = add_line(run, ACCURACY)
    pruned = next(artifact for artifact in line if artifact.stage == "Prune")
    run.save(pruned, log=[{"step": step, "epoch": epoch, "loss": 1.0} for step in range(1, 12) for epoch in (0, 1)])
    staged = training_curves(run, [], line, {}, ACCURACY).stages
    names = [curve.name for curve in staged]
    assert names == ["control", "distilled", *(f"pruned, step {step}" for step in range(1, 12))]
    assert all(len(curve.points) == 2 for curve in staged[2:])
