"""Data with its loss, metric and splits: the folder is the registry.

A module of this folder that has a literal `EMBEDDED = {name: description}` and a function `load(source) -> Task` offers
tasks; adding such a file edits no other. The literal is read without importing the file, so that listing the tasks
imports neither torch nor scikit-learn.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from searchkit.types import JSON, Arrays, BadInput, Task

from .source import Source

FOLDER = Path(__file__).parent


@cache
def _embedded() -> dict[str, tuple[str, str]]:
    """Task name to (module, description), from the EMBEDDED literals of the folder."""
    found: dict[str, tuple[str, str]] = {}
    for file in sorted(FOLDER.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\nEMBEDDED" not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EMBEDDED":
                for name, description in ast.literal_eval(node.value).items():
                    found[name] = (file.stem, description)
    return found


def names() -> dict[str, str]:
    """The embedded tasks: name to a description of one line. Imports no torch."""
    return {name: description for name, (_, description) in sorted(_embedded().items())}


def load(source: Mapping[str, JSON]) -> Task:
    """The task that `source` names: {"task": "digits"} or {"data": "/path", "target": "column"}; the other keys are the
    fields of `tasks.source.Source`. Raises BadInput."""
    wanted = Source.parse(source)
    if wanted.task is not None:
        if wanted.task not in _embedded():
            near = get_close_matches(wanted.task, _embedded(), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"No task named '{wanted.task}'; the tasks are {', '.join(names())}.{hint}")
        module = import_module(f"{__name__}.{_embedded()[wanted.task][0]}")
    else:
        module = import_module(f"{__name__}.files")
    task: Task = module.load(wanted)
    return task


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> Task:
    """The inverse of `Task.pack`. config["module"] names the module of this folder that packed it."""
    module = str(config["module"])
    if not module.isidentifier() or not (FOLDER / f"{module}.py").is_file():
        raise BadInput(
            f"The stored task was packed by '{module}', which this searchkit does not have; install the version that "
            "wrote it."
        )
    task: Task = import_module(f"{__name__}.{module}").unpack(config, arrays)
    return task
