"""The notebook for newcomers runs from its first cell to its last, and says what it promises."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"

pytestmark = pytest.mark.slow

RUNNER = """
import ast, json, sys
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if hasattr(value, "_repr_html_"):
            value = value._repr_html_()
        print("OUT", json.dumps(str(value)))
"""
"""Runs the cells in order and shows the last expression of each, as a kernel does."""


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_ten_lines_go_from_a_table_to_a_bundle() -> None:
    assert len([line for line in code_cells()[0].splitlines() if line.strip()]) <= 10
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # what it shows is made where it is read


def test_every_cell_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(NOTEBOOK)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line.removeprefix("OUT ")) for line in done.stdout.splitlines() if line.startswith("OUT ")]
    verdict, page, right, trials, _, report = shown
    assert verdict.startswith("mlp-data-1: ") and "KB" in verdict
    assert "<svg" in page and float(right) > 0.5
    assert trials.count("trained") == 3
    assert (tmp_path / report).is_file() and (tmp_path / "runs" / "mlp-data-1" / "bundle" / "model.onnx").is_file()
    assert "verified" in done.stdout
    assert "3 of 3 trials" in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None,
    reason="no nbclient and ipykernel; the cells run in a plain process above",
)
def test_every_cell_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    page = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) and "<svg" in output["data"]["text/html"] for output in page)


def environment() -> dict[str, str]:
    """This environment, with the checkout on the path before all else."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
