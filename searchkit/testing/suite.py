"""Run the conformance suite of families: every check, with its verdict."""

from __future__ import annotations

from pathlib import Path

from searchkit.core.errors import BadInput, GateFailed, NothingFeasible
from searchkit.core.scratch import scratch_folder
from searchkit.core.space import Space
from searchkit.core.task import Task
from searchkit.testing.families import CHECKS, Result
from searchkit.testing.fixture import CheckFailed, Fixture
from searchkit.train import Diverged


def run_check(name: str, fixture: Fixture) -> Result:
    """Run one check by name; an exception of the family's code fails it."""
    if name in fixture.space.skips:
        return Result(name, "skipped", fixture.space.skips[name])
    try:
        detail = CHECKS[name](fixture)
    except (CheckFailed, GateFailed, BadInput, NothingFeasible, Diverged) as error:
        return Result(name, "failed", str(error))
    except Exception as error:
        return Result(name, "failed", f"it raises {type(error).__name__}: {error}".splitlines()[0])
    return Result(name, "passed", detail or "")


def run_checks(space: Space, task: Task, *, path: Path | None = None) -> list[Result]:
    """Run all checks on a family.

    Args:
        space: The family.
        task: The task to check it on.
        path: The family's file.

    Returns:
        One result per check. A name in `skips` that is not a check also fails.
    """
    unknown = sorted(set(space.skips) - set(CHECKS))
    results = [
        Result(name, "failed", f"skips names '{name}', which is not a check; the checks are {', '.join(CHECKS)}")
        for name in unknown
    ]
    with scratch_folder() as folder:
        fixture = Fixture(space, task, folder)
        return results + [run_check(name, fixture) for name in CHECKS]
