"""What problems say of themselves: read from their text as when they are run, and complete."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

from searchkit.core.errors import BadInput
from searchkit.data import problems
from searchkit.data.dataset import Column, RawDataset
from searchkit.data.source import Source
from searchkit.tasks import registry
from searchkit.tasks.bundle_files import metric_script
from searchkit.tasks.prepare import guess_kind

LISTING = "import sys; from searchkit.tasks import registry; print(*registry.problems(), 'torch' in sys.modules)"
SPECS = registry.problem_specs()


def test_the_text_of_a_module_says_what_the_module_says() -> None:
    assert {name: spec.info for name, spec in SPECS.items()} == problems.problems()


@pytest.mark.parametrize("name", SPECS)
def test_a_problem_is_described(name: str) -> None:
    spec = SPECS[name]
    assert spec.info.description and not spec.info.description.endswith(".")
    assert set(spec.info.asked_by) <= set(spec.info.fields) <= set(Source.__dataclass_fields__)
    assert spec.prediction.row and set(spec.prediction.words()) == {"row", "note", "decides", "paired"}
    assert spec.info.predicts.format(n=3)


def test_problems_are_listed_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=True)
    told = done.stdout.split()
    assert told.pop() == "False"
    assert told == sorted(told) and {"classification", "ordinal"} <= set(told) and "control" not in told


def test_a_problem_that_only_packaged_tasks_have_is_refused() -> None:
    with pytest.raises(BadInput, match="--problem 'control' is unknown"):
        Source.parse({"data": "a.npz", "kind": "control"})


@pytest.mark.parametrize(
    ("target", "columns", "problem"),
    [
        (None, False, "reconstruction"),
        (np.tile([0, 1], (30, 2)), False, "multilabel"),
        (np.tile([0, 2], (30, 1)), False, "regression"),
        (np.linspace(0, 1, 30), False, "regression"),
        (np.arange(30), True, "regression"),
        (np.arange(30), False, "classification"),
        (np.arange(30) % 20, True, "classification"),
        (np.array(["a", "b"])[np.arange(30) % 2], True, "classification"),
    ],
)
def test_a_problem_is_recognized_by_its_target(target: np.ndarray | None, columns: bool, problem: str) -> None:
    named = (Column("a", "numeric"),) if columns else ()
    assert guess_kind(RawDataset(name="d", x=np.zeros((30, 1)), target=target, where="d", columns=named)) == problem


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.metric is not None])
def test_the_metric_of_a_bundle_needs_numpy_alone(name: str) -> None:
    """Its source is run without the module around it, so it may use no other name of that module."""
    metric = SPECS[name].metric
    assert metric is not None and set(inspect.getclosurevars(metric).globals) <= {"np"}
    namespace: dict[str, object] = {}
    exec(metric_script(SPECS[name])["metric.py"], namespace)
    assert callable(namespace["metric"]) and namespace["metric"] is not metric
