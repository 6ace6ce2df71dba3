"""docs/support.md has a row for every family and no empty cell.

Whether its figures are of the families as they stand is checked at a release, by `make support-check`: a changed
comment in a family is no reason to measure it again.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import support  # noqa: E402

PAGE = ROOT / "docs" / "support.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    return support.rows_in(PAGE.read_text(encoding="utf-8"))


def test_no_row_is_of_a_family_that_is_gone(rows: dict[str, list[str]]) -> None:
    assert rows.keys() <= set(support.families())


def test_the_release_check_names_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "support.md"
    row = ["cnn", "digits", *["×0.5"] * len(support.COLUMNS), support.source_digest("cnn")]
    page.write_text(support.page([row]))
    monkeypatch.setattr(support, "families", lambda: ["cnn"])
    assert support.outdated(page) == []
    page.write_text(support.page([[*row[:-1], "0123abcd"]]).replace(f"torch {version('torch')}", "torch 1.0"))
    assert support.outdated(page) == ["cnn", f"torch {version('torch')}"]


def test_every_cell_is_a_figure_or_a_reason(rows: dict[str, list[str]]) -> None:
    cells = [cell for row in rows.values() for cell in row[2:-1]]
    reasons = [cell for cell in cells if cell.startswith("no: ")]
    assert all(len(cell) > len("no: ") + 10 for cell in reasons)
    assert all(any(letter.isdigit() for letter in cell) or cell == "passes" for cell in set(cells) - set(reasons))
    assert len(reasons) <= 0.05 * len(cells)


def test_a_page_is_read_as_it_was_written() -> None:
    row = ["cnn", "digits", *["×0.5"] * len(support.COLUMNS), "0123abcd"]
    assert support.rows_in(support.page([row])) == {"cnn": row}
