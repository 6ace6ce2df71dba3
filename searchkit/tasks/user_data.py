"""A task from a user's own files."""

from __future__ import annotations

from searchkit.core.task import Task
from searchkit.data.find import find
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task


def load(source: Source) -> Task:
    """Make a task from a user's own files.

    Raises:
        BadInput: they cannot be read, or used for what was asked.
    """
    return make_task(find(source), source)
