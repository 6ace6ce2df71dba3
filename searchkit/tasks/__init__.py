"""Data with its loss, metric and splits: the folder is the registry.

A module of this folder that has a literal `EMBEDDED = {name: description}` and a function `load(source) -> Task` offers
tasks; adding such a file edits no other. One with a literal `SCHEMES = {prefix: description}` loads every task whose
name begins with that prefix and a colon. The literals are read without importing the file, so that listing the tasks
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
def _literals(table: str) -> dict[str, tuple[str, str]]:
    """Name to (module, description), from the literals of the folder called `table`."""
    found: dict[str, tuple[str, str]] = {}
    for file in sorted(FOLDER.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if f"\n{table} = " not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
                for name, description in ast.literal_eval(node.value).items():
                    found[name] = (file.stem, description)
    return found


def names() -> dict[str, str]:
    """The embedded tasks: name to a description of one line. Imports no torch."""
    return {name: description for name, (_, description) in sorted(_literals("EMBEDDED").items())}


def schemes() -> dict[str, str]:
    """What a name may begin with, before a colon, and what then follows it: a description of one line."""
    return {name: description for name, (_, description) in sorted(_literals("SCHEMES").items())}


def _module_of(task: str) -> str:
    """Of an embedded task, or by its scheme. Raises BadInput."""
    embedded, prefix = _literals("EMBEDDED"), task.partition(":")[0]
    if task in embedded:
        return embedded[task][0]
    if prefix != task and prefix in schemes():
        return _literals("SCHEMES")[prefix][0]
    near = get_close_matches(task, embedded, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    others = "".join(f", and {name}:NAME for {description}" for name, description in schemes().items())
    raise BadInput(f"No task named '{task}'; the tasks are {', '.join(names())}{others}.{hint}")


def load(source: Mapping[str, JSON]) -> Task:
    """The task that `source` names: {"task": "digits"} or {"data": "/path", "target": "column"}; the other keys are the
    fields of `tasks.source.Source`. Raises BadInput."""
    wanted = Source.parse(source)
    module = import_module(f"{__name__}.{'files' if wanted.task is None else _module_of(wanted.task)}")
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
