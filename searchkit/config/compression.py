"""What happens to the winner: the recipe, and how much each of its stages may cost."""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.config import naming
from searchkit.config.options import option, settle
from searchkit.config.search import COSTS
from searchkit.core.errors import BadInput

RECIPES = {
    "compact": "distill, prune, quantize, export: the smallest file that is as good as the winner",
    "int8": "quantize, export: the winner's own architecture in int8",
    "prune": "prune, export: smaller, in fp32",
    "distill": "distill, export: the winner, or a smaller trial as its student, in fp32",
    "export": "the winner in fp32, exported and bundled",
    "none": "stop after the search",
}
"""Name of a recipe to what it does."""

RENAMED_RECIPES = {"distil": "distill"}

IMPORTANCES = ("l1", "l2", "taylor", "bn", "random")


@dataclass(frozen=True)
class CompressionConfig:
    """What the stages after the search are asked for.

    Raises:
        BadInput: a value is not allowed.
    """

    recipe: str = option(
        "compact",
        "Recipe that compresses the winner; none stops after the search.",
        choices=tuple(RECIPES),
        example="int8",
        renamed=RENAMED_RECIPES,
    )
    prune_to: float | None = option(
        None,
        "Share of the pruned cost to keep, or its value above 1; the drop of the metric is then not bounded.",
        kind="number",
        low=0,
        above=True,
        usual="half, as far as --max-drop allows; with a limit, no pruning",
        example="0.25",
    )
    prune_by: str = option("params", "Cost that pruning reduces.", choices=tuple(COSTS), example="macs")
    importance: str = option("taylor", "Criterion that ranks the channels to prune.", choices=IMPORTANCES, example="l2")
    max_drop: float = option(
        0.005,
        "Largest loss of the metric accepted from pruning and from int8, as a share of its range.",
        kind="number",
        low=0,
        high=1,
        below=True,
        example="0.01",
    )
    max_rise: float = option(
        0.02,
        "Largest rise of an error accepted from pruning and from int8, as a share of the error.",
        kind="number",
        low=0,
        example="0.05",
    )
    student: int | None = option(
        None,
        "Number of the trial whose network learns from the winner.",
        kind="whole",
        low=0,
        usual="the winner's own network",
        example="4",
    )
    temperature: float = option(
        2.0,
        "Temperature that softens the teacher's outputs for distillation.",
        kind="number",
        low=0,
        above=True,
        example="4",
    )
    teacher_weight: float = option(
        0.5, "Weight of the distillation loss in the training loss.", kind="number", low=0, high=1, example="0.9"
    )
    ensemble: int = option(
        3, "Number of trained networks that form the teacher, best first.", kind="whole", low=1, example="1"
    )
    own_recipe: str | None = option(None, "Names of the stages of a recipe that was given as a value.", internal=True)

    def __post_init__(self) -> None:
        settle(self)
        if self.prune_to == 1:
            raise BadInput(f"{naming.given('prune_to', 1)} prunes nothing; give a share below 1 or a value above 1.")

    @property
    def shown_recipe(self) -> str:
        """The recipe's name; of one that was given as a value, the names of its stages."""
        return self.own_recipe or self.recipe
