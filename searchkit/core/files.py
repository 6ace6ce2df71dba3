"""Atomic file writes, and JSON files whose errors become one clear sentence."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from searchkit.core.errors import DAMAGED_ARRAYS, BadInput
from searchkit.core.serialization import JSON


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; the target appears whole or not at all.

    Raises:
        BadInput: If the target cannot be written.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise BadInput(f"Cannot write the folder {target}: {error.strerror}; give another one.") from error


def to_json(value: JSON, indent: int | None = 1) -> str:
    """Serialize to JSON text; `indent` is the number of spaces per level, or None for one line."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all, even if the process is killed.

    The data is written to a temporary file in the same folder, flushed to disk, and renamed.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a power cut the name must not point to empty blocks
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(file: Path, what: str) -> Any:
    """Read a JSON object from a file.

    Args:
        file: The file.
        what: What the file holds, for the error message, e.g. "the run".

    Raises:
        BadInput: If the file is missing, damaged, or holds something else than an object.
    """
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


def named(file: Path, run: str, part: str = "") -> str:
    """How errors name a file of a run, e.g. "artifacts/0123abcd/artifact.json of the run 'mine'"."""
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
    """Turn the errors of reading a missing or damaged file into `BadInput`.

    Args:
        file: The file that is read inside the block.
        way_out: What the user can do, as the end of a sentence.
        also: Exceptions of the reader in use, in addition to the usual ones.

    Raises:
        BadInput: If the block raises one of these exceptions.
    """
    torn: tuple[type[Exception], ...] = (*DAMAGED_ARRAYS, *also)
    try:
        yield
    except torn as error:
        raise BadInput(f"{file} cannot be read ({error}); {way_out}.") from error


def file_locks() -> Any:
    """The standard library's module that locks files.

    Raises:
        BadInput: If the system has none, as Windows does not.
    """
    try:
        import fcntl
    except ImportError as error:
        raise BadInput(
            "searchkit runs on Linux and macOS: this system cannot lock a run's folder (Python has no fcntl here). On "
            "Windows, use the Windows Subsystem for Linux (WSL)."
        ) from error
    return fcntl


def lock(handle: IO[str], *, tries: int = 5) -> None:
    """Lock an open file for this process.

    Args:
        handle: The open file.
        tries: How often to try, 20 ms apart: a look at who holds the lock, such as `Run.writer`, holds it briefly.

    Raises:
        OSError: If another process holds the lock.
    """
    fcntl = file_locks()
    for left in reversed(range(tries)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.02)


def last_byte(handle: IO[bytes]) -> bytes:
    """Return the last byte of an open file that is not empty."""
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)
