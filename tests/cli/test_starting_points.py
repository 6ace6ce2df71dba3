"""`--prior`: a search that starts from what another run learned, as a user asks for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from searchkit.run import Run
from searchkit.search.results import history

TINY = str(Path(__file__).parents[1] / "families" / "tiny.py")
NARROW = str(Path(__file__).parents[1] / "families" / "narrow.py")
SHORT = ("--epochs", "1", "--executor", "inline", "--recipe", "none", "--sampler", "random")


@pytest.fixture
def first(here: Any) -> Any:
    here("search", "--space", TINY, "--trials", "3", "--name", "first", *SHORT)
    return here


def test_a_prior_is_kept_with_the_run_and_resumed_without_the_earlier_one(first: Any, tmp_path: Path) -> None:
    first("search", "--space", f"{NARROW},{TINY}", "--trials", "2", "--prior", "first", "--name", "second", *SHORT)
    run, earlier = Run.open(tmp_path / "runs" / "second"), Run.open(tmp_path / "runs" / "first")
    (taken,) = [row for row in history(run) if row["way"] == "as in first"]
    assert taken["params"] in [row["params"] for row in history(earlier)] and taken["space"] == "tiny"
    shutil.rmtree(earlier.path)
    first("search", "--resume", "second", "--trials", "4")
    assert len(history(run)) == 4
    shown = first("report", "second")
    assert (
        shown.status == 0
        and "- earlier run, whose best trials came first: first\n" in (run.path / "report" / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--space", NARROW, "--prior", "first"), "--prior 'first' searched tiny, and this search has narrow"),
        (("--space", "mlp", "--task", "digits", "--prior", "first"),
         "--prior 'first' is of another task: classification of tabular data, and this search is "
         "classification of image data"),
        (("--space", TINY, "--prior", "nothing"), "No run named 'nothing' in runs; the runs there are first."),
        (("--space", TINY, "--prior", "first", "--resume", "first"), "leave out --space"),
    ],
)  # fmt: skip
def test_a_wrong_prior_is_one_sentence(first: Any, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = first("search", *arguments, status=2)
    assert says in done.err and done.err.count("\n") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]
