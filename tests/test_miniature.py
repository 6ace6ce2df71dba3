"""The whole idea in one short file, docs/miniature.py, runs as its docstring says."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

MINIATURE = Path(__file__).parents[1] / "docs" / "miniature.py"


def run(folder: Path) -> list[tuple[str, float, int, int]]:
    """name, share of test that is right, parameters and bytes of each line that it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(MINIATURE), str(folder)], capture_output=True, text=True, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(\w+): (0\.\d+) ± .* (\d+) parameters, (\d+) bytes", done.stdout)
    return [(name, float(right), int(params), int(size)) for name, right, params, size in rows]


def test_it_is_short() -> None:
    assert len(MINIATURE.read_text(encoding="utf-8").splitlines()) <= 150


def test_it_searches_prunes_proves_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mini"
    winner, pruned = run(folder)
    assert (winner[0], pruned[0]) == ("winner", "pruned")
    assert winner[1] > 0.9 and pruned[1] > winner[1] - 0.05
    assert pruned[2] < 0.7 * winner[2] and pruned[3] < winner[3]
    made = {p: p.stat().st_mtime_ns for p in folder.rglob("artifact.json")}
    assert len(made) == 7
    # once more, here and without the exports: what is whole is found and not made again
    monkeypatch.setattr(sys, "argv", [str(MINIATURE), str(folder)])
    again = runpy.run_path(str(MINIATURE), run_name="miniature")
    found = again["search"](n_trials=6, epochs=15)
    child = again["prune"](found)
    assert (found["params"], child["params"]) == (winner[2], pruned[2]) and child["parent"] == found["id"]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("artifact.json")} == made
