"""Recipes: named sequences of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from searchkit.core.errors import BadInput
from searchkit.core.stage import Stage
from searchkit.stages.pipeline import LeftOut
from searchkit.stages.recipe import FIRST, SEPARATOR, Recipe, recipe_of

NAMES = {
    "compact": "distil, prune, quantize, export: the smallest file that is as good as the winner",
    "int8": "quantize, export: the winner's own architecture in int8",
    "prune": "prune, export: smaller, in fp32",
    "distil": "distil, export: the winner, or a smaller trial as its student, in fp32",
    "export": "the winner in fp32, exported and bundled",
    "none": "stop after the search",
}

STAGES = {
    "compact": ("Promote", "Distill", "Prune", "Quantize", "Export"),
    "int8": ("Promote", "Quantize", "Export"),
    "prune": ("Promote", "Prune", "Export"),
    "distil": ("Promote", "Distill", "Export"),
    "export": ("Promote", "Export"),
    "none": (),
}


@dataclass(frozen=True)
class CompressionConfig:
    """What the user asks of the stages. Raises BadInput on a number that cannot be.

    prune_to: as in Prune.to, to be delivered; None prunes to half of the parameters as far as `max_drop` allows, and,
    if hard limits are set, which every candidate meets as it is, not at all. student: a trial's number, None for the
    winner's own network; temperature, teacher_weight (0 to 1, of the teacher's part in the loss) and ensemble: of
    Distill. max_drop, max_rise: as in Tolerance.
    """

    prune_to: float | None = None
    prune_by: str = "params"
    importance: str = "taylor"
    max_drop: float = 0.005
    max_rise: float = 0.02
    student: int | None = None
    temperature: float = 2.0
    teacher_weight: float = 0.5
    ensemble: int = 3

    def __post_init__(self) -> None:
        to = self.prune_to
        if to is not None and (not 0 < to < math.inf or to == 1):
            raise BadInput(f"Pruning to {to:g} shrinks nothing; give a share between 0 and 1, or a number above 1.")
        if not 0 <= self.max_drop < 1:
            raise BadInput(f"A drop of {self.max_drop:g} in the metric cannot be; it lies in [0, 1), such as 0.005.")
        if not 0 <= self.max_rise < math.inf:
            raise BadInput(f"A rise of {self.max_rise:g} of an error cannot be; it is 0 or more, such as 0.02 for 2 %.")
        if self.student is not None and self.student < 0:
            raise BadInput(f"The student {self.student} is no trial; give the number of a finished one, from 0 on.")
        if not 0 < self.temperature < math.inf:
            raise BadInput(f"A temperature of {self.temperature:g} softens nothing; it is above 0, such as 2.")
        if not 0 <= self.teacher_weight <= 1:
            raise BadInput(f"A teacher's weight of {self.teacher_weight:g} cannot be; it lies in [0, 1], such as 0.5.")
        if self.ensemble < 1:
            raise BadInput(f"An ensemble of {self.ensemble} networks teaches nothing; it has at least 1.")


def make(
    name: str | Recipe | Sequence[Stage], wish: CompressionConfig, *, epochs: int, limited: bool
) -> tuple[Stage, ...]:
    """The stages of a recipe.

    Args:
        name: Of a recipe that is configured by the rest; or stages of your own, which are taken as they are.
        wish: What the user asked of the stages.
        epochs: For how long the winner was trained.
        limited: Whether hard limits are set.

    Raises:
        BadInput: The name is unknown, or the stages are no recipe.
    """
    if not isinstance(name, str):
        return recipe_of(name).stages
    from searchkit.stages.distill import Distill
    from searchkit.stages.export import Export
    from searchkit.stages.promote import Promote
    from searchkit.stages.prune import Prune
    from searchkit.stages.quantize import Quantize

    if name not in NAMES:
        raise BadInput(f"No recipe named '{name}'; the recipes are {', '.join(NAMES)}.")
    prune: Stage = Prune(
        to=wish.prune_to or 0.5,
        by=wish.prune_by,
        importance=wish.importance,
        recovery_epochs=max(6, epochs),
        max_drop=wish.max_drop if wish.prune_to is None else None,
        max_rise=wish.max_rise,
    )
    if name == "compact" and limited and wish.prune_to is None:
        prune = LeftOut("Prune", "hard limits are set, and the winner meets them as it is; --prune-to prunes it too")
    stages: dict[str, Stage] = {
        "Promote": Promote(),
        "Distill": Distill(
            epochs=max(2, epochs // 3),
            temperature=wish.temperature,
            weight=wish.teacher_weight,
            ensemble=wish.ensemble,
            student=wish.student,
        ),
        "Prune": prune,
        "Quantize": Quantize(max_drop=wish.max_drop, max_rise=wish.max_rise),
        "Export": Export(),
    }
    return tuple(stages[stage] for stage in STAGES[name])


def quantizes(name: str | Recipe | Sequence[Stage]) -> bool:
    """Whether what the recipe ships is an int8 file."""
    return "Quantize" in (stage_names(name) if isinstance(name, str) else recipe_of(name).stage_names)


def stage_names(name: str) -> tuple[str, ...]:
    """The names of a recipe's stages, by the recipe's name as a run keeps it; () if the name says nothing of them."""
    found = tuple(name.split(SEPARATOR))
    return STAGES.get(name, found if found[0] == FIRST else ())
