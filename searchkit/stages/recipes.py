"""Recipes: named sequences of stages."""

from __future__ import annotations

from searchkit.config.compression import RENAMED_RECIPES, CompressionConfig
from searchkit.core.artifact import Stage
from searchkit.core.errors import BadInput
from searchkit.stages.pipeline import LeftOut

STAGES = {
    "compact": ("Promote", "Distill", "Prune", "Quantize", "Export"),
    "int8": ("Promote", "Quantize", "Export"),
    "prune": ("Promote", "Prune", "Export"),
    "distill": ("Promote", "Distill", "Export"),
    "export": ("Promote", "Export"),
    "none": (),
}


def make(name: str, wish: CompressionConfig, *, epochs: int, limited: bool) -> tuple[Stage, ...]:
    """The stages of the recipe `name` for a winner that was trained for `epochs`. limited: whether hard limits are set.
    Raises BadInput on an unknown name.
    """
    from searchkit.stages.distill import Distill
    from searchkit.stages.export import Export
    from searchkit.stages.promote import Promote
    from searchkit.stages.prune import Prune
    from searchkit.stages.quantize import Quantize

    name = RENAMED_RECIPES.get(name, name)
    if name not in STAGES:
        raise BadInput(f"No recipe named '{name}'; the recipes are {', '.join(STAGES)}.")
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


def quantizes(name: str) -> bool:
    """Whether what the recipe ships is an int8 file."""
    return "Quantize" in STAGES.get(name, ())
