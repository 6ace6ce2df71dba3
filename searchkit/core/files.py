"""Files that are whole or not there, and JSON that is read with one clear sentence for what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

from searchkit.core.errors import BadInput
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


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends, whole and on disk; after an error, nothing does.

    It is written beside `path`, for a rename is atomic within one file system only.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a power cut the new name must not hold an empty file
        os.chmod(name, 0o644)  # mkstemp makes files that no one else can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one. Text is UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


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


@contextmanager
def readable(file: Path, way_out: str, *also: type[Exception]) -> Iterator[None]:
    """What reading a missing or a torn file raises, as BadInput; `also` is what the reader at hand adds to that."""
    torn: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, BadZipFile, *also)
    try:
        yield
    except torn as error:
        raise BadInput(f"{file} cannot be read ({error}); {way_out}.") from error


def last_byte(handle: IO[bytes]) -> bytes:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)
