"""How the verbs find families, runs and trials, by name or by path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from searchkit.config import naming
from searchkit.config.options import Option, parse
from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.space import Space

if TYPE_CHECKING:
    from searchkit.core.artifact import Artifact
    from searchkit.run import Run


def space_path(name: str) -> Path:
    """The file of a family.

    Raises:
        BadInput: no family has this name, or no file this path.
    """
    return catalogue.find(catalogue.FAMILIES, name)


def load_space(name: str) -> Space:
    """Load a family by its name or its file's path.

    Raises:
        BadInput: there is none, or its file cannot be loaded.
    """
    from searchkit.core.space_file import load_space as load

    return load(space_path(name))


def open_run(name: str, runs: str) -> Run:
    """Open a run.

    Args:
        name: its name, or its path.
        runs: the folder of runs.

    Raises:
        BadInput: there is no such run, or it cannot be read.
    """
    from searchkit import lifecycle
    from searchkit.run import Run

    run = Run.open(Path(name) if os.sep in name else Path(runs) / name)
    lifecycle.config_of(run)  # every field of run.json is one that a verb can use
    return run


def number(name: str, text: str | None, default: int | None = None, *, low: int = 0, example: str = "7") -> int | None:
    """The whole number of a flag that is no field of the configuration.

    Raises:
        BadInput: the text is no whole number, or it is below `low`.
    """
    if text is None:
        return default
    about = Option(f"Number for {naming.mention(name)}.", kind="whole", low=low, example=example)
    value: int = parse(about, name, text)
    return value


def best(found: list[Artifact], run: Run) -> Artifact:
    """The first of a run's winners.

    Raises:
        BadInput: there is none.
    """
    if not found:
        raise BadInput(
            f"The run '{run.name}' has no finished trial; go on with it: searchkit search --resume {run.name}."
        )
    return found[0]
