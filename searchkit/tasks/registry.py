"""The registry of tasks, and of the modalities and problems that they are made of: the folder is the registry.

A module below `searchkit/tasks` may offer, by a literal or a dictionary at its top level:

- `EMBEDDED = {name: description}` with a function `load(source) -> Task`: packaged tasks.
- `SCHEMES = {prefix: description}` with the same function: every task whose name begins with the prefix and a colon.
- `MODALITIES = {name: Modality}`: forms of input.
- `PROBLEMS = {name: ProblemSpec}`: what is predicted.
- `TASKS = {modality: class}`: the task class of a modality whose problem has none of its own.

Adding such a file edits no other. A module is found by its text and imported when it is first needed, so that listing
the tasks imports neither torch nor scikit-learn.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset
from searchkit.data.problems import problems as declared_problems
from searchkit.data.problems import shown
from searchkit.data.source import Source
from searchkit.tasks.protocols import Modality, ProblemSpec

FOLDER = Path(__file__).parent

OTHERWISE = "otherwise"
"""The key in TASKS of the class to use if neither the problem nor the modality has one of its own."""


@cache
def _modules() -> dict[str, str]:
    """The last part of a module's name to its full name, for every module below this folder.

    Scripts that bundles carry are no modules. The last parts are unique, because a packed task names its module by it.
    """
    found: dict[str, str] = {}
    for file in sorted(FOLDER.rglob("*.py")):
        relative = file.relative_to(FOLDER).with_suffix("")
        if relative.parts[0] != "bundle" and file.stem != "__init__":
            assert file.stem not in found, f"two modules below {FOLDER.name} are called {file.stem}"
            found[file.stem] = ".".join([__package__ or "", *relative.parts])
    return found


def _file_of(module: str) -> Path:
    return FOLDER.joinpath(*module.removeprefix(f"{__package__}.").split(".")).with_suffix(".py")


def _modules_with(table: str) -> dict[str, str]:
    """Full name to text, of the modules that assign `table` at their top level."""
    texts = {module: _file_of(module).read_text(encoding="utf-8") for module in _modules().values()}
    # After a line feed, so that neither an indented name nor a longer one that ends alike counts.
    return {module: text for module, text in texts.items() if f"\n{table} = " in text}


@cache
def _literals(table: str) -> dict[str, tuple[str, str]]:
    """Name to (module, description), from the literals called `table`."""
    found: dict[str, tuple[str, str]] = {}
    for module, text in _modules_with(table).items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
                for name, description in ast.literal_eval(node.value).items():
                    found[name] = (module, description)
    return found


@cache
def _offered(table: str) -> dict[str, Any]:
    """The union of the dictionaries called `table`; importing their modules."""
    offered: dict[str, Any] = {}
    for module in _modules_with(table):
        if isinstance(entries := vars(import_module(module))[table], dict):
            offered |= entries
    return offered


# ── Packaged tasks, and tasks of a user's own data ───────────────────────────────────────────────────────────────────


def names() -> dict[str, str]:
    """The packaged tasks: name to a description of one line. Imports no torch."""
    return {name: description for name, (_, description) in sorted(_literals("EMBEDDED").items())}


def problems() -> dict[str, str]:
    """The problems that a user may ask for: name to a phrase that says what is predicted. Imports no torch."""
    known = declared_problems().items()
    return dict(sorted((shown(name), info.description) for name, info in known if info.selectable))


def schemes() -> dict[str, str]:
    """Prefixes that a task's name may have before a colon, and what follows each: a description of one line."""
    return {name: description for name, (_, description) in sorted(_literals("SCHEMES").items())}


def _module_of(task: str) -> str:
    """The module that loads a packaged task, or one of a scheme. Raises BadInput."""
    embedded, prefix = _literals("EMBEDDED"), task.partition(":")[0]
    if task in embedded:
        return embedded[task][0]
    # Without a colon, partition gives the whole name as the prefix.
    if prefix != task and prefix in schemes():
        return _literals("SCHEMES")[prefix][0]
    near = get_close_matches(task, embedded, n=1)
    hint = f"did you mean '{near[0]}'? " if near else f"there are {', '.join(list(names())[:5])} and others. "
    others = "".join(f", {name}:NAME among them" for name in schemes())
    raise BadInput(f"No task named '{task}'; {hint}`searchkit tasks` lists all{others}.")


def load(source: Mapping[str, JSON]) -> Task:
    """Load a task.

    Args:
        source: {"task": "digits"} or {"data": "/path", "target": "column"}; the other keys are the fields of `Source`.

    Raises:
        BadInput: the task is unknown, or the data cannot be used.
    """
    wanted = Source.parse(source)
    module = import_module(f"{__package__}.user_data" if wanted.task is None else _module_of(wanted.task))
    task: Task = module.load(wanted)
    return task


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> Task:
    """Rebuild a packed task: the inverse of `Task.pack`.

    Args:
        config: Its "module" names the module that packed the task.
        arrays: As `Task.pack` gave them.

    Raises:
        BadInput: this searchkit has no such module.
    """
    module = str(config["module"])
    # The name comes from a stored file: it is looked up among the known modules, not imported as it stands.
    if module not in _modules():
        raise BadInput(
            f"The stored task was packed by '{module}', which this searchkit does not have; install the version that "
            "wrote it."
        )
    task: Task = import_module(_modules()[module]).unpack(config, arrays)
    return task


# ── What tasks are made of ───────────────────────────────────────────────────────────────────────────────────────────


def modality_named(name: str) -> Modality:
    """The modality of this name."""
    modality: Modality = _offered("MODALITIES")[name]
    return modality


def problem_specs() -> dict[str, ProblemSpec]:
    """Every problem by name. Imports their modules, and so torch."""
    return dict(_offered("PROBLEMS"))


def problem_named(name: str) -> ProblemSpec:
    """The problem of this name."""
    problem: ProblemSpec = _offered("PROBLEMS")[name]
    return problem


def task_class(data: Dataset) -> Callable[[Dataset], Task]:
    """Choose the task's class: the problem's own, else the modality's, else the general one."""
    tasks = _offered("TASKS")
    own: Callable[[Dataset], Task] = problem_named(data.kind).task or tasks.get(data.modality, tasks[OTHERWISE])
    return own
