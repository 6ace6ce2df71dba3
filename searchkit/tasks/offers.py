"""What the modules of this folder offer by name: forms of input in MODALITIES, questions in KINDS, classes in TASKS.

A module that offers something is found by its text and imported when it is first asked for, so that a new one is one
file, and none has to know of another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from searchkit.types import Task

from .data import Data, Modality, Offer

OTHERWISE = "otherwise"
"""In TASKS, the class where neither the kind nor the modality has one of its own."""


@cache
def _offered(table: str) -> dict[str, Any]:
    """The union of the dicts named `table` in the modules of this folder."""
    offered: dict[str, Any] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if f"\n{table} = " in file.read_text(encoding="utf-8"):
            module = import_module(f"{__package__}.{file.stem}")
            if isinstance(entries := vars(module)[table], dict):
                offered |= entries
    return offered


def modality_named(name: str) -> Modality:
    modality: Modality = _offered("MODALITIES")[name]
    return modality


def kind_named(name: str) -> Offer:
    offer: Offer = _offered("KINDS")[name]
    return offer


def task_class(data: Data) -> Callable[[Data], Task]:
    """The kind's own; else the modality's."""
    tasks = _offered("TASKS")
    own: Callable[[Data], Task] = kind_named(data.kind).task or tasks.get(data.modality, tasks[OTHERWISE])
    return own
