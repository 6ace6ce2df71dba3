"""Families from files: what cannot be used is one sentence, and what can travels as text."""

from __future__ import annotations

from pathlib import Path

import pytest
import search_driver

from searchkit.core.errors import BadInput
from searchkit.core.space_file import load_space, materialize, source_of
from searchkit.core.task import Task
from searchkit.search.candidates import draw
from searchkit.search.choices import at


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "has no SPACE"),
        ("SPACE = 3", "a SPACE that is a int"),
        ("import nothing_of_this_name", r"line 1: ModuleNotFoundError"),
        ("\n\n1 / 0", r"line 3: ZeroDivisionError"),
        ("def f(:", "line 1: SyntaxError"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_a_family_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "family.py").write_text(text)
    with pytest.raises(BadInput, match=said):
        load_space(tmp_path / "family.py")


def test_a_family_travels_as_text(tmp_path: Path, task: Task) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "_blocks.py").write_text("WIDTHS = (4, 32)\n")
    text = search_driver.TINY.read_text().replace("import nn\n", "import nn\n\nfrom _blocks import WIDTHS\n", 1)
    (folder / "mine.py").write_text(text.replace("4, 32, step=4", "*WIDTHS, step=4"))
    source = source_of(load_space(folder / "mine.py"))
    (folder / "mine.py").unlink()
    (folder / "_blocks.py").unlink()
    there = materialize(source)
    candidate = draw(there, task.spec, at(0.5), epochs=1, way="x")
    assert sum(p.numel() for p in there.build(candidate.arch, task.spec).parameters()) > 0


def test_a_missing_family_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere.py"):
        load_space(tmp_path / "nowhere.py")
