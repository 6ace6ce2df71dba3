"""`--space` with several families: what runs, what is stored, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from searchkit.core import catalogue
from searchkit.run import Run
from searchkit.search.results import history

FAMILIES = Path(__file__).parents[1] / "families"
BOTH = f"{FAMILIES / 'tiny.py'},{FAMILIES / 'narrow.py'}"
SHORT = ("--epochs", "2", "--executor", "inline", "--recipe", "none", "--sampler", "random")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cnn,nope",), "No space named 'nope'; the spaces are autoencoder"),
        (("cnn,mixnt",), "Did you mean 'mixnet'?"),
        (("cnn,cnn",), "The space 'cnn' is named twice in 'cnn,cnn'; name each family once."),
        (("cnn,,mixnet",), "a name between commas is empty"),
        (("all,cnn",), "'all' stands for every family and stands alone"),
        (("all",), "--space 'all' takes the families that accept your data; give --data or --task."),
        (("cnn,gpt", "--task", "digits"), "The space 'gpt' is not for the task 'digits': it takes tokens"),
    ],
)  # fmt: skip
def test_a_wrong_list_of_families_is_one_sentence(
    here: Any, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = here("search", "--space", *arguments, status=2)
    assert says in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_family_by_name_and_by_path_is_named_twice(here: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy.py"
    copy.write_text((FAMILIES / "tiny.py").read_text())
    done = here("search", "--space", f"{FAMILIES / 'tiny.py'},copy.py", "--task", "breast-cancer", status=2)
    assert "The space 'tiny' is named twice in --space; name each family once." in done.err


def test_all_where_no_family_accepts_the_data_is_refused(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FAMILIES", FAMILIES)
    done = here("search", "--space", "all", "--task", "digits", *SHORT, status=2)
    assert re.search(
        r"--space 'all' takes .* none of the 2 is for the task 'digits'; name a family of your own", done.err
    )
    assert done.err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_all_takes_the_families_that_accept_the_data(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "families"
    folder.mkdir()
    for name in ("tiny", "narrow"):
        (folder / f"{name}.py").write_text((FAMILIES / f"{name}.py").read_text())
    pictures = (FAMILIES / "narrow.py").read_text().replace("tabular", "image").replace('"narrow"', '"pictures"')
    (folder / "pictures.py").write_text(pictures)
    monkeypatch.setattr(catalogue, "FAMILIES", folder)
    here("search", "--space", "all", "--task", "breast-cancer", "--trials", "5", *SHORT)
    run = Run.open(tmp_path / "runs" / "all-breast-cancer-1")
    assert run.config["config"]["search"]["space"] == "narrow,tiny", "what was found then is what is resumed"
    assert {row["space"] for row in history(run)} == {"tiny", "narrow"}
    (folder / "wide.py").write_text((FAMILIES / "narrow.py").read_text().replace('"narrow"', '"wide"'))
    here("search", "--resume", "all-breast-cancer-1", "--trials", "7")
    assert {row["space"] for row in history(run)} == {"tiny", "narrow"}
    assert len(history(run)) == 7


def test_a_run_of_two_families_goes_on_and_is_told_by_family(here: Any, tmp_path: Path) -> None:
    here("search", "--space", BOTH, "--trials", "5", *SHORT)
    run = Run.open(tmp_path / "runs" / "tiny-narrow-breast-cancer-1")
    assert run.config["config"]["search"]["space"] == BOTH
    here("search", "--resume", run.name, "--trials", "6")
    status = here("status", run.name).out
    rows = history(run)
    for name in ("tiny", "narrow"):
        own = [row["value"] for row in rows if row["space"] == name]
        best = f"{100 * max(v for v in own if v is not None):.1f} %"
        assert re.search(rf"^  {name} +{len(own)} trials?, best val accuracy {re.escape(best)}$", status, re.M), status
    assert "trials    6 of 6: 6 trained" in status


def test_the_budget_of_several_families_is_the_largest_and_the_first_trials_of_the_others(here: Any) -> None:
    from searchkit import families
    from searchkit.core.space_file import load_space

    tiny, narrow = (load_space(FAMILIES / f"{name}.py") for name in ("tiny", "narrow"))
    shared = families.shared_budget([narrow, tiny])
    assert (shared.trials, shared.epochs, shared.rungs) == (6 + 2, 4, 2)
    assert families.shared_budget([narrow]) == narrow.budget
