"""Temporary folders that do not pile up: each is named by its process, and the next start removes those of the dead.

A folder is removed when its work ends; a killed process cannot do that. So the name holds the machine and the process,
and the first folder that a process makes sweeps away what dead ones of the same machine and user left behind.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

NAME = re.compile(r"searchkit-([0-9a-f]{8})-([0-9]+)-[^/]+")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the system's temporary folder, removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix=prefix()) as folder:
        yield Path(folder)


@contextmanager
def redirected() -> Iterator[Path]:
    """As `scratch_folder`, and `tempfile` makes its own in it meanwhile: ONNX Runtime's quantizers leave theirs too."""
    before = tempfile.tempdir
    with scratch_folder() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def prefix() -> str:
    """What the names of this process's folders begin with; the first call removes what dead processes left."""
    _sweep_once()
    return f"searchkit-{machine()}-{os.getpid()}-"


@cache
def machine() -> str:
    """8 hex digits that identify this machine and container.

    Process numbers mean something on one machine and in one container only, and two may share the folder.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def remove_leftovers(root: Path | None = None) -> list[Path]:
    """Remove the folders that dead processes of this machine and user left behind.

    Args:
        root: Where to look; None for the system's temporary folder.

    Returns:
        The folders that were removed. What cannot be removed is left.
    """
    removed = []
    for path in sorted((root or Path(tempfile.gettempdir())).glob("searchkit-*")):
        found = NAME.fullmatch(path.name)
        if found is None or found[1] != machine() or _lives(int(found[2])) or not _is_own_folder(path):
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed += [] if path.exists() else [path]
    return removed


@cache
def _sweep_once() -> None:
    remove_leftovers()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 is not sent: the call only checks whether the process exists
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; or a number that no process has
        return True
    return True


def _is_own_folder(path: Path) -> bool:
    """Not a link: the temporary folder is open to everybody."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
