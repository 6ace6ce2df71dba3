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
    # Beside the target, since a rename is atomic within one file system only.
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


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends, whole and on disk; after an error, nothing does.

    The data are written to a temporary file in the same folder, for a rename is atomic within one file system only,
    flushed to disk, and renamed.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a power cut the name must not point to empty blocks
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:  # Ctrl-C is no Exception, and must leave no temporary file either
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one. Text is UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


def read_json(file: Path, what: str) -> Any:
    """Read a JSON object from a file.

    Args:
        file: The file.
        what: What the file holds, for the error message, e.g. "the run".

    Raises:
        BadInput: If the file is missing, damaged, or holds something else than an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{file} is missing, so {what} cannot be read; resume needs a whole run folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{file} is damaged ({error}), so {what} cannot be read; restore it or start a new run."
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} holds {type(value).__name__}, not an object, so {what} cannot be read.")
    return value


def name_in_run(file: Path, run: str, part: str = "") -> str:
    """A file of a run, for a message.

    Args:
        file: Its path; of an artifact's file the last parts are shown, of another its name.
        run: The run's name.
        part: A field or a line of it.
    """
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
    """Take the system's lock of an open file, which ends with the process.

    Args:
        handle: The open file.
        tries: How often to try, 20 ms apart: a look at who holds the lock, such as `Run.writer`, holds it briefly.

    Raises:
        OSError: If another process holds the lock.
    """
    fcntl = file_locks()
    for left in reversed(range(tries)):
        try:
            # Not fcntl.lockf, whose lock ends as soon as the process closes any other handle of the same file.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.02)


def append_row(file: Path, row: JSON) -> None:
    """Append one JSON line and wait until it is on disk."""
    with open(file, "ab+") as handle:
        # A file that is opened to append is at its end, so tell() is 0 only if it is empty.
        if handle.tell() and last_byte(handle) != b"\n":
            handle.write(b"\n")  # a kill tore the last line: it stays alone on its line and is skipped
        handle.write((to_json(row, indent=None) + "\n").encode())
        handle.flush()
        os.fsync(handle.fileno())  # the log says what is paid for: a power cut must not make it be paid for twice


def read_rows(file: Path) -> list[dict[str, JSON]]:
    """The objects of a file of JSON lines; torn lines are left out, and a missing file has none."""
    if not file.exists():
        return []
    rows = []
    # errors: a kill may have torn a line inside a character. The lines are the file's own, for str.splitlines would
    # also split at U+2028 and others, which stand in JSON as they are.
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return [row for row in rows if isinstance(row, dict)]


def last_byte(handle: IO[bytes]) -> bytes:
    """Return the last byte of an open file that is not empty."""
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)
