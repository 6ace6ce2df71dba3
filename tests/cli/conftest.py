"""Fixtures of the tests of the command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY, Desk, Finished, in_process

from searchkit.cli.output import StderrHandler


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option comes from the environment of the tests, nor stays there for the next one."""
    for name in [name for name in os.environ if name.startswith("SEARCHKIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEARCHKIT_STORAGE", "")  # a search with --storage sets it


@pytest.fixture(autouse=True)
def no_log_on_stderr() -> Iterator[None]:
    """What the command line sets up to show the log is gone after the test: the Python API shows none."""
    yield
    log = logging.getLogger("searchkit")
    for handler in [handler for handler in log.handlers if isinstance(handler, StderrHandler)]:
        log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The command line in this process; `folder` is where it stands."""
    yield from in_process(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    return Finished(desk, desk(*TINY, "--name", "first", "--json", "--profile"))


@pytest.fixture
def there(finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The command line in this process, in the folder of the finished run."""
    yield from in_process(finished.desk.folder, monkeypatch, capsys)
