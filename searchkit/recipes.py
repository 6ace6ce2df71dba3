"""Recipes: named sequences of stages."""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.types import BadInput, Stage

NAMES = {
    "compact": "distil, prune, quantize, export: the smallest file that is as good as the winner",
    "int8": "quantize, export: the winner's own architecture in int8",
    "prune": "prune, export: smaller, in fp32",
    "export": "the winner in fp32, exported and bundled",
    "none": "stop after the search",
}


@dataclass(frozen=True)
class Wish:
    """What the user asks of the stages. prune_to: as in Prune.to, to be delivered; None prunes to half of the
    parameters as far as `max_drop` allows, and, where hard limits are set, which every candidate meets as it is, not
    at all."""

    prune_to: float | None = None
    prune_by: str = "params"
    importance: str = "taylor"
    max_drop: float = 0.005
    temperature: float = 2.0
    ensemble: int = 3


def make(name: str, wish: Wish, *, epochs: int, limited: bool) -> tuple[Stage, ...]:
    """The stages of the recipe `name` for a winner that was trained for `epochs`. limited: whether hard limits are set.
    Raises BadInput on an unknown name."""
    from searchkit.stages.distill import Distill
    from searchkit.stages.export import Export
    from searchkit.stages.promote import Promote
    from searchkit.stages.prune import Prune
    from searchkit.stages.quantize import Quantize

    distill = Distill(epochs=max(2, epochs // 3), temperature=wish.temperature, ensemble=wish.ensemble)
    prune = Prune(
        to=wish.prune_to or 0.5,
        by=wish.prune_by,
        importance=wish.importance,
        recovery_epochs=max(6, epochs),
        max_drop=wish.max_drop if wish.prune_to is None else None,
    )
    prunes = () if limited and wish.prune_to is None else (prune,)
    quantize = Quantize(max_drop=wish.max_drop)
    recipes: dict[str, tuple[Stage, ...]] = {
        "compact": (Promote(), distill, *prunes, quantize, Export()),
        "int8": (Promote(), quantize, Export()),
        "prune": (Promote(), prune, Export()),
        "export": (Promote(), Export()),
        "none": (),
    }
    if name not in recipes:
        raise BadInput(f"No recipe named '{name}'; the recipes are {', '.join(NAMES)}.")
    return recipes[name]


def quantizes(name: str) -> bool:
    """Whether what the recipe ships is an int8 file."""
    return name in ("compact", "int8")
