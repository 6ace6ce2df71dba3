"""A recipe of your own: a tuple of stages, such as `(Promote(), Prune(to=0.5), Export())`.

Those with a name are in `searchkit.stages.recipes`; they are made to fit a winner and what the user asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass

from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.stage import Stage

FIRST = "Promote"
"""The stage that exports the winner, with which everything after it is compared."""


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they are applied, the first to the winner of a search.

    Attributes:
        stages: Begin with `Promote()`; your own may be among them.
        name: What the report calls it; the stages' names alone by default.

    Raises:
        BadInput: It is empty, does not begin with `Promote()`, or holds what is no stage.
    """

    stages: tuple[Stage, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        for stage in self.stages:
            _require_stage(stage)
        if not self.stages or type(self.stages[0]).__name__ != FIRST:
            raise BadInput(
                f"A recipe begins with {FIRST}(), which exports the winner that its other stages are compared with; "
                f"this one is ({', '.join(self.stage_names)})."
            )
        if not self.name:
            object.__setattr__(self, "name", SEPARATOR.join(self.stage_names))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Of the stages, in order."""
        return tuple(type(stage).__name__ for stage in self.stages)

    @property
    def title(self) -> str:
        """What a run keeps of it: the names of its stages, after its own name if it has one."""
        stages = SEPARATOR.join(self.stage_names)
        return stages if self.name == stages else f"{self.name}{AFTER_NAME}{stages}"

    @property
    def quantizes(self) -> bool:
        """Whether what it ships is an int8 file."""
        return "Quantize" in self.stage_names


SEPARATOR = ", "
AFTER_NAME = ": "


def recipe_of(stages: Recipe | Sequence[Stage]) -> Recipe:
    """The recipe itself, or one of these stages. Raises BadInput as `Recipe` does."""
    return stages if isinstance(stages, Recipe) else Recipe(tuple(stages))


def _require_stage(stage: object) -> None:
    if isinstance(stage, type):
        raise BadInput(f"A recipe holds stages, and {stage.__name__} is the class of some; write {stage.__name__}().")
    if not is_dataclass(stage) or not callable(stage):
        raise BadInput(
            f"{stage!r:.80} is no stage; a stage is a frozen dataclass with __call__(artifact, ctx), such as Export()."
        )
    try:
        json.dumps(freeze(stage))
    except TypeError as error:
        raise BadInput(
            f"The settings of the stage {type(stage).__name__} are part of an artifact's id, and must be numbers, "
            f"strings, bools or tuples of them ({error})."
        ) from error
