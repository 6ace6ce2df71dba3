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
        if value is not None:
            print("OUT", json.dumps(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)))
"""
"""Runs the cells in order and shows the last expression of each, as a kernel does."""


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_ten_lines_go_from_a_table_to_a_bundle() -> None:
    assert len([line for line in code_cells()[0].splitlines() if line.strip()]) <= 10
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # what it shows is made where it is read


def in_a_process(folder: Path) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(NOTEBOOK)], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line.removeprefix("OUT ")) for line in done.stdout.splitlines() if line.startswith("OUT ")]
    return shown, done.stdout + done.stderr


def in_a_kernel(folder: Path) -> tuple[list[str], str]:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    results = [output["data"] for output in outputs if output.output_type == "execute_result"]
    shown = [data.get("text/html") or data["text/plain"] for data in results]
    return shown, "".join(output["text"] for output in outputs if output.output_type == "stream")


KERNEL = all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel"))


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, as a reader runs it; in a plain process if there is no kernel to be had."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    shown, printed = in_a_kernel(tmp_path) if KERNEL else in_a_process(tmp_path)
    verdict, page, right, trials, report = shown
    assert verdict.startswith("'mlp-data-1: ") and "KB" in verdict
    assert "<svg" in page and float(right) > 0.5
    assert trials.count("trained") == 3
    assert (tmp_path / report.removeprefix("PosixPath('").removesuffix("')")).is_file() and (
        tmp_path / "runs" / "mlp-data-1" / "bundle" / "model.onnx"
    ).is_file()
    assert "verified" in printed
    assert KERNEL or "3 of 3 trials" in printed  # a notebook shows the progress as a widget of its own


def environment() -> dict[str, str]:
    """This environment, with the checkout on the path before all else."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
