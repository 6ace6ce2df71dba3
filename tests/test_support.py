"""docs/support.md is of the families and the versions as they are, and no cell of it is empty."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "reports"))

import support  # noqa: E402

PAGE = ROOT / "docs" / "support.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    return support.rows_in(PAGE.read_text(encoding="utf-8"))


def test_every_family_has_its_row_as_its_file_stands(rows: dict[str, list[str]]) -> None:
    known = {name: row[-1] for name, row in rows.items()}
    assert known == {name: support.source_digest(name) for name in support.families()}, (
        "out of date; PYTHONPATH=. python reports/support.py docs/support.md --families, with those that differ"
    )


def test_the_versions_are_those_that_are_installed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"{name} {version(name)}" in text for name in support.PACKAGES)


def test_every_cell_is_a_figure_or_a_reason(rows: dict[str, list[str]]) -> None:
    cells = [cell for row in rows.values() for cell in row[2:-1]]
    reasons = [cell for cell in cells if cell.startswith("no: ")]
    assert all(len(cell) > len("no: ") + 10 for cell in reasons)
    assert all(any(letter.isdigit() for letter in cell) or cell == "passes" for cell in set(cells) - set(reasons))
    assert len(reasons) <= 0.05 * len(cells)


def test_a_page_is_read_as_it_was_written() -> None:
    row = ["cnn", "digits", *["×0.5"] * len(support.COLUMNS), "0123abcd"]
    assert support.rows_in(support.page([row])) == {"cnn": row}
