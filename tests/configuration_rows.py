"""What the tests of the fields of configurations share: a row for each field, and what to observe it on."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import search_driver

from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.tasks import registry

TINY = load_space(search_driver.TINY)


def require_a_row_for_each_field(kind: type, rows: dict[str, Any]) -> None:
    assert set(rows) == {f.name for f in fields(kind)}, f"a field of {kind.__name__} has no row, or a row no field"


@functools.cache
def task(name: str) -> Task:
    return registry.load({"task": name, "split_seed": 0})
