"""`--prior` and `--init-from`: a search that starts from what another run has, as a user asks for it."""

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


def test_a_search_from_the_weights_of_a_run_reports_its_control(first: Any, tmp_path: Path) -> None:
    first(*("search", "--space", TINY, "--trials", "3", "--init-from", "first", "--name", "second"), *SHORT)
    run = Run.open(tmp_path / "runs" / "second")
    shutil.rmtree(tmp_path / "runs" / "first")
    assert [row["way"] for row in history(run)][:2] == ["as in first", "from scratch, as a control"]
    first("search", "--resume", "second", "--trials", "4")
    assert len(history(run)) == 4
    first("report", "second")
    text = (run.path / "report" / "report.md").read_text()
    assert "## Transfer" in text and "| from the weights | 0 | 100 % |" in text
    assert "| from scratch, the control | 1 | 0 % |" in text and "- weights to start from: first" in text
    page = (run.path / "report" / "report.html").read_text()
    assert "<h2>Transfer from first</h2>" in page and 'aria-labeledby="transfer-title transfer-desc"' in page


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("nothing", "--init-from 'nothing' is neither a file nor a run in runs"),
        ("model.pt", "--init-from 'model.pt' may run code when it is read; save the weights by safetensors"),
        ("other.safetensors", "No layer of --init-from 'other.safetensors' fits a network of tiny for the task "
                              "'breast-cancer': it holds 'conv.weight' of shape (3, 3)"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_taken_are_one_sentence(here: Any, tmp_path: Path, weights: str, says: str) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "model.pt").write_bytes(b"")
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    done = here("search", "--space", TINY, "--init-from", weights, status=2)
    assert says in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_bundle_in_its_run_stands_for_the_weights_before_any_cut(here: Any, tmp_path: Path) -> None:
    from searchkit.search.weights_source import find_weights

    exported = ("--epochs", "1", "--executor", "inline", "--sampler", "random", "--recipe", "export")
    here("search", "--space", TINY, "--trials", "2", "--name", "first", *exported)
    run = Run.open(tmp_path / "runs" / "first")
    found = find_weights(str(run.bundle), tmp_path / "runs")
    best = max(history(run), key=lambda row: row["value"] or 0.0)
    assert found.params in [row["params"] for row in history(run)] and found.family == "tiny"
    assert found.name == "first" and found.params == best["params"]
    other = next(row for row in history(run) if row["number"] != best["number"])
    here("export", "first", "--trial", other["number"])
    found = find_weights(str(run.path / f"bundle-trial-{other['number']}"), tmp_path / "runs")
    assert found.params == other["params"], "the trial that was exported, and not the one that was shipped"
