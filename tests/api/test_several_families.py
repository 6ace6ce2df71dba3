"""Several families by the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import searchkit
from searchkit.core.space_file import load_space

FAMILIES = Path(__file__).parents[1] / "families"
TINY, NARROW = FAMILIES / "tiny.py", FAMILIES / "narrow.py"
SHORT: dict[str, Any] = {
    "task": "breast-cancer", "executor": "inline", "progress": "none", "recipe": "none", "sampler": "random",
    "budget": {"trials": 5, "epochs": 1, "rungs": 1},
}  # fmt: skip


def test_a_list_of_families_is_one_search(tmp_path: Path) -> None:
    heard: list[searchkit.TrialInfo] = []
    found = searchkit.search([load_space(TINY), NARROW], runs=tmp_path, callback=heard.append, **SHORT)
    assert found.name == "tiny-narrow-breast-cancer-1"
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4] == [trial.number for trial in heard]
    assert {trial.space for trial in found.trials} == {"tiny", "narrow"}
    assert all(("depth" in trial.params) == (trial.space == "tiny") for trial in found.trials)
    rows = {row["name"]: row for row in found.families}
    assert sum(row["n_trained"] for row in rows.values()) == 5
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)
    best = max(found.trials, key=lambda trial: trial.value or 0.0)
    assert found.families[0]["best"] == best.value == found.best.value
    assert sum(row["n_on_front"] for row in rows.values()) == len(found.front)
    more = searchkit.resume(found, budget={"trials": 6}, progress="none")
    assert len(more.trials) == 6


def test_a_family_alone_has_no_table_of_families(tmp_path: Path) -> None:
    found = searchkit.search([TINY], runs=tmp_path, **{**SHORT, "budget": {"trials": 1, "epochs": 1, "rungs": 1}})
    assert found.families == [] and found.name == "tiny-breast-cancer-1"


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ([], "space=\\[\\] names no family"),
        ([TINY, TINY], "A space is named twice"),
        (["cnn", "nope"], "No space named 'nope'"),
        ("all", "space='all' takes the families that accept your data; give data or task"),
        (["cnn", "gpt"], "'gpt' is not for the task 'digits'"),
    ],
)
def test_a_wrong_list_is_a_sentence(tmp_path: Path, space: Any, says: str) -> None:
    with pytest.raises(searchkit.BadInput, match=says):
        searchkit.search(space, runs=tmp_path / "runs", progress="none")
    assert not (tmp_path / "runs").exists()
