"""What a run keeps of what it starts from, an earlier run or trained weights; see `searchkit.core.run_files`."""

from __future__ import annotations

from typing import Any, TypedDict

from searchkit.core.typed import Count, Name


class PriorFacts(TypedDict):
    """What a run keeps of an earlier one: its name, and by family the parameters of its best trials."""

    run: Name
    families: dict[str, list[dict[str, Any]]]


class FirstNetwork(TypedDict):
    """The network of a family that takes most of some weights. taken: of so many that it has."""

    params: dict[str, Any]
    taken: Count
    of: Count


class InitialFacts(TypedDict):
    """What a run keeps of the weights that its networks start from. families: by name, what takes most of them."""

    source: str
    file: str
    sha256: str
    families: dict[str, FirstNetwork]


class TransferNotes(TypedDict):
    """How a trial started. start: "scratch" of the control, else empty; taken: of so many weights that it has."""

    source: str
    start: str
    taken: Count
    of: Count
