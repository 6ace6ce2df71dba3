"""Files that are whole or not there, and JSON that is read with one clear sentence for what is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from searchkit.core.errors import DAMAGED_ARRAYS, BadInput
from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    pass


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder whole, or not at all. Raises BadInput where it cannot be written."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise BadInput(f"Cannot write the folder {target}: {error.strerror}; give another one.") from error


def to_json(value: JSON, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(file: Path, what: str) -> Any:
    try:
        value = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{file} is missing, so {what} cannot be read; resume needs a whole run folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{file} is damaged ({error}), so {what} cannot be read; restore it or start a new run."
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} holds {type(value).__name__}, not an object, so {what} cannot be read.")
    return value


def _named(file: Path, run: str, part: str = "") -> str:
    name = f"artifacts/{file.parent.name}/{file.name}" if file.parent.parent.name == "artifacts" else file.name
    return f"{part + ' of ' if part else ''}{name} of the run '{run}'"


class Figures(dict[str, float]):
    """The metrics of an artifact that was read: one that is missing is the fault of its file, and is said to be."""

    def __init__(self, values: Any = (), file: str = "artifact.json") -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str) -> float:
        raise BadInput(f"In {self.file}, the field 'metrics.{name}' is missing; restore the file.")


@contextmanager
def readable(file: Path, way_out: str, *also: type[Exception]) -> Iterator[None]:
    """What reading a missing or a torn file raises, as BadInput; `also` is what the reader at hand adds to that."""
    torn: tuple[type[Exception], ...] = (*DAMAGED_ARRAYS, *also)
    try:
        yield
    except torn as error:
        raise BadInput(f"{file} cannot be read ({error}); {way_out}.") from error


def _lock(handle: IO[str], *, tries: int = 5) -> None:
    """Raises OSError if another process holds it for longer than a look at who does, such as `Run.writer`, takes."""
    for left in reversed(range(tries)):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not left:
                raise
            time.sleep(0.02)


def last_byte(handle: IO[bytes]) -> bytes:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)
