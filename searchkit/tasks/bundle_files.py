"""What a bundle has beside its model, or in place of its run.py: scripts of this folder, and the tokenizer as JSON."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from searchkit.data.dataset import Dataset
from searchkit.tasks.protocols import ProblemSpec

FOLDER = Path(__file__).parent

SHARED = {"tokenizer.py": FOLDER.parent / "data" / "tokenizer.py", "decoding.py": FOLDER / "text" / "decoding.py"}
"""Modules that bundles carry as they are: they import the standard library and numpy alone."""


def script(name: str) -> str:
    """Read a script that is written for bundles alone."""
    return (FOLDER / "bundle" / name).read_text(encoding="utf-8")


def for_text(data: Dataset, run: str, *beside: str) -> dict[str, str]:
    """Collect the files for a bundle that takes text, see `HasBundleFiles`.

    Args:
        data: With a tokenizer.
        run: The script that becomes run.py.
        beside: Names of SHARED modules that it imports beside tokenizer.py.

    Returns:
        File name to text: the tokenizer, the code that applies it, and run.py.
    """
    modules = {name: SHARED[name].read_text(encoding="utf-8") for name in ("tokenizer.py", *beside)}
    return {
        "tokenizer.json": json.dumps(data.tokenizer, ensure_ascii=False) + "\n",
        "run.py": script(run),
        **modules,
    }


_METRIC = '''"""The metric of this model: verify.py calls it with the answers by name, the targets and the labels."""
from __future__ import annotations

import numpy as np


'''


def metric_script(problem: ProblemSpec) -> dict[str, str]:
    """Write metric.py: the very function that the problem computes its metric with.

    Returns:
        The file's name to its text; nothing if verify.py knows the metric.
    """
    if problem.metric is None:
        return {}
    return {"metric.py": f"{_METRIC}{inspect.getsource(problem.metric)}\n\nmetric = {problem.metric.__name__}\n"}
