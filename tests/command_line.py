"""The command line as the tests call it: in this process, or in one of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from searchkit.cli import app as cli

ROOT = Path(__file__).parents[1]
TINY = (
    "search", "--space", "mlp", "--task", "iris", "--trials", "2", "--epochs", "3",
    "--workers", "1", "--executor", "inline",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Desk:
    """A working folder, and the command line called in it."""

    folder: Path

    def __call__(self, *arguments: object, status: int | None = 0) -> Done:
        """In a process of its own, as a user does it, without colours of the terminal's own."""
        environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, env={**environment, "COLUMNS": "200"},
        )  # fmt: skip
        assert status is None or done.returncode == status, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, status: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["searchkit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert int(ended.value.code or 0) == status, err
        return Done(status, out, err)

    yield call


@dataclass(frozen=True)
class Finished:
    """A whole line, run once by the process that a user would start."""

    desk: Desk
    search: Done

    @property
    def run(self) -> Path:
        return self.desk.folder / "runs" / "first"
