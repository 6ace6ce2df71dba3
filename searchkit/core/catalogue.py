"""The families of a folder, found by listing it and described without running their files.

Nothing here imports torch, so that `searchkit spaces`, `--help` and the message for a mistyped name stay fast.
"""

from __future__ import annotations

import ast
import os
from difflib import get_close_matches
from pathlib import Path

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON

_PACKAGE = Path(__file__).parents[1]

FAMILIES = _PACKAGE / "spaces" if (_PACKAGE / "spaces").is_dir() else _PACKAGE.parent / "spaces"
"""The folder of the families: inside the installed package, or at the top of a checkout."""


def files(folder: Path) -> dict[str, Path]:
    """Return the families of a folder.

    Returns:
        Path of the file by family name, sorted. Files that begin with an underscore are not families.
    """
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def find(folder: Path, name: str) -> Path:
    """Find the file of a family.

    Args:
        folder: The folder of the families.
        name: Name of a family in the folder, or the path of another family file.

    Raises:
        BadInput: If there is neither such a family nor such a file; the message names the closest family.
    """
    known = files(folder)
    if name in known:
        return known[name]
    if name.endswith(".py") or os.sep in name:
        path = Path(name)
        if not path.is_file():
            raise BadInput(
                f"There is no family file '{name}'; give the path of a .py file that ends in SPACE = Space(...)."
            )
        return path.resolve()
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise BadInput(f"No space named '{name}'; the spaces are {', '.join(known)}, or a path to your own file.{hint}")


ALL = "all"
"""Stands for every family of the folder that accepts the data."""


def split(text: str) -> list[str]:
    """The parts of a list of families: names and paths between commas. A file may have a comma in its own name."""
    return [text] if Path(text).is_file() else [part.strip() for part in text.split(",")]


def named(folder: Path, text: str) -> list[str]:
    """The families that a text names.

    Args:
        folder: The folder of the families.
        text: One family, several between commas, or "all". A family is a name, or the path of a file.

    Returns:
        Names, and absolute paths of files that are not in the folder, in the order in which they were written.

    Raises:
        BadInput: A family is unknown or named twice, or a part is empty.
    """
    if text == ALL:
        return list(files(folder))
    parts = split(text)
    if len(parts) > 1 and (ALL in parts or "" in parts):
        wrong = "'all' stands for every family and stands alone"
        wrong = wrong if ALL in parts else "a name between commas is empty"
        raise BadInput(f"No spaces can be read from '{text}': {wrong}; write for example cnn,mixnet.")
    paths = [find(folder, part) for part in parts]
    names = [path.stem if path.parent == folder else str(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"The space '{twice}' is named twice in '{text}'; name each family once.")
    return names


def sharing(folder: Path) -> list[str]:
    """Return the names of the families that say how their networks share weights, see `Space.shares`."""
    found = []
    for name, path in files(folder).items():
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        spaces = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Space")
        if any(keyword.arg == "shares" for call in spaces for keyword in call.keywords):
            found.append(name)
    return found


def glance(path: Path) -> dict[str, JSON]:
    """Read a family's description from its source without running it.

    Returns:
        The name, the first line of the docstring as "about", and those of task, paper, trials and epochs that are
        literals in the file. Of a file that is not Python, the name alone.
    """
    found: dict[str, JSON] = {"name": path.stem, "about": ""}
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # whoever loads the family says what is wrong with its file
        return found
    found["about"] = (ast.get_docstring(module) or "").partition("\n")[0]
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Space", "Budget"):
            for keyword in node.keywords:
                if keyword.arg in ("task", "paper", "trials", "epochs") and isinstance(keyword.value, ast.Constant):
                    found[keyword.arg] = keyword.value.value
    return found
