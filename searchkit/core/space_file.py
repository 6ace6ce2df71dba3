"""Load a family from its file, whether it is in the folder of families or elsewhere.

The source text is also sent to workers, so that a machine without the file builds the same networks. Loading runs the
file's code: give `--space` only files that you would run yourself.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import tempfile
from pathlib import Path

from searchkit.core import old_names, scratch
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON, digest
from searchkit.core.space import Space


def load_space(path: Path) -> Space:
    """Load the SPACE that a file defines.

    Args:
        path: The family file.

    Raises:
        BadInput: If the file is missing, raises while it runs, or defines no SPACE.
    """
    path = path.resolve()
    if not path.is_file():
        raise BadInput(f"There is no family file {path}; --space takes a family's name or the path of its .py file.")
    if path.suffix != ".py":
        raise BadInput(f"{path} is not a family file: it must be a .py file that ends in SPACE = Space(...).")
    # By path and text: a file that was edited since it was loaded is loaded again, also in one process.
    name = f"searchkit_family_{path.stem}_{digest(str(path), path.read_text(encoding='utf-8', errors='replace'))}"
    if name in sys.modules:
        return _space_of(vars(sys.modules[name]), path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while they are made
    # A family may import the modules beside it, by their own name or as `folder._name`. At the end of the path, so that
    # a file named json.py hides nothing.
    neighbors = [p for p in (str(path.parent), str(path.parent.parent)) if p not in sys.path]
    sys.path.extend(neighbors)
    try:
        with old_names.accepted(path.name):
            spec.loader.exec_module(module)
        old_names.adapt(vars(module), path.name)
        return _space_of(vars(module), path)
    # A module that failed is taken out again, or the next attempt would find half of it.
    except BadInput:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's file may raise becomes one sentence
        del sys.modules[name]
        raise BadInput(f"The family file {path} cannot be loaded: {_where(error, path)}{_said(error)}.") from error
    finally:
        for entry in neighbors:
            sys.path.remove(entry)


def source_of(space: Space) -> dict[str, JSON]:
    """Return the source of a family and of the modules beside it, as plain data.

    Returns:
        What `materialize` takes: path, folder, file, and file name to text as "files".

    Raises:
        BadInput: If the family was not loaded from a file.
    """
    file = inspect.getsourcefile(space.sample)
    if file is None:
        raise BadInput(f"The family '{space.name}' has no file, so worker processes cannot load it.")
    path = Path(file).resolve()
    shared = sorted(p for p in path.parent.glob("_*.py") if p != path)
    return {
        "path": str(path),
        "folder": path.parent.name,
        "files": {p.name: p.read_text(encoding="utf-8") for p in [path, *shared]},
        "file": path.name,
    }


def materialize(source: dict[str, JSON]) -> Space:
    """Load a family from the data of `source_of`, on this machine or another one.

    The original file is used if it is there and unchanged; otherwise the text is written to a temporary folder.
    """
    path = Path(source["path"])
    if path.is_file() and path.read_text(encoding="utf-8") == source["files"][source["file"]]:
        return load_space(path)
    # Kept after the load, for `source_of` reads the file again; a later start removes it (see `scratch`).
    folder = Path(tempfile.mkdtemp(prefix=scratch.prefix())) / source["folder"]
    folder.mkdir()
    for name, text in source["files"].items():
        # The last part of the name alone: a name such as ../x.py must not lead out of the folder.
        (folder / Path(name).name).write_text(text, encoding="utf-8")
    return load_space(folder / Path(source["file"]).name)


def _space_of(names: dict[str, object], path: Path) -> Space:
    space = names.get("SPACE")
    if not isinstance(space, Space):
        found = "no SPACE" if space is None else f"a SPACE that is a {type(space).__name__}"
        raise BadInput(f"{path} has {found}; a family file ends in SPACE = Space(...), as CONTRIBUTING.md shows.")
    return space


def _where(error: BaseException, path: Path) -> str:
    """The last line of the file itself that the error passed through."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": .")
