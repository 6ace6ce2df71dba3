"""Recipes: named sequences of stages."""

from __future__ import annotations

from collections.abc import Sequence

from searchkit.config.compression import RENAMED_RECIPES, CompressionConfig
from searchkit.core.errors import BadInput
from searchkit.core.stage import Stage
from searchkit.stages.pipeline import LeftOut
from searchkit.stages.recipe import AFTER_NAME, FIRST, SEPARATOR, Recipe, recipe_of

STAGES = {
    "compact": ("Promote", "Distill", "Prune", "Quantize", "Export"),
    "int8": ("Promote", "Quantize", "Export"),
    "prune": ("Promote", "Prune", "Export"),
    "distill": ("Promote", "Distill", "Export"),
    "export": ("Promote", "Export"),
    "none": (),
}


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

    name = RENAMED_RECIPES.get(name, name)
    if name not in STAGES:
        raise BadInput(f"No recipe named '{name}'; the recipes are {', '.join(STAGES)}.")
    # Recovery is what matters: a CNN cut from 308k parameters to 41k scored .105, after 4 epochs .865, after 12 .996
    # (measured). If the user gives a target, it is delivered whatever it costs in accuracy.
    prune: Stage = Prune(
        to=wish.prune_to or 0.5,
        by=wish.prune_by,
        importance=wish.importance,
        recovery_epochs=max(6, epochs),
        max_drop=wish.max_drop if wish.prune_to is None else None,
        max_rise=wish.max_rise,
    )
    if "Prune" in STAGES[name] and not prunes(name, wish, limited=limited):
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


def prunes(name: str | Recipe | Sequence[Stage], wish: CompressionConfig, *, limited: bool) -> bool:
    """Whether a recipe prunes, see `make`. A winner that meets hard limits stays as it is by the recipe "compact"."""
    if not isinstance(name, str):
        return "Prune" in recipe_of(name).stage_names
    name = RENAMED_RECIPES.get(name, name)
    return "Prune" in stage_names(name) and not (name == "compact" and limited and wish.prune_to is None)


def quantizes(name: str | Recipe | Sequence[Stage]) -> bool:
    """Whether what the recipe ships is an int8 file."""
    return "Quantize" in (stage_names(name) if isinstance(name, str) else recipe_of(name).stage_names)


def stage_names(name: str) -> tuple[str, ...]:
    """The names of a recipe's stages, by its name or its `Recipe.title`; () if they say nothing of them."""
    # A title is "name: Promote, …"; if it has no name, `rpartition` puts all of it last.
    found = tuple(name.rpartition(AFTER_NAME)[2].split(SEPARATOR))
    return STAGES.get(name, found if found[0] == FIRST else ())
