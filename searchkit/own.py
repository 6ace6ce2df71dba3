"""A sampler, a recipe and a metric that a run is given as values of Python. Its configuration keeps their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from searchkit.config.run import RunConfig
from searchkit.core.errors import BadInput
from searchkit.core.run_files import SearchFile
from searchkit.core.serialization import qualified_name
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.stages.recipe import Recipe, recipe_of
from searchkit.tasks import own_metric
from searchkit.tasks.own_metric import Metric

if TYPE_CHECKING:
    from searchkit.search.sampler import Sampler


@dataclass(frozen=True)
class Own:
    """What a run is given beside its configuration; a text is a name, and None is not given.

    Attributes:
        sampler: proposes the candidates.
        recipe: compresses the winner.
        metric: the goal, in place of the task's own.
    """

    sampler: str | Sampler | None = None
    recipe: str | Recipe | None = None
    metric: str | Metric | None = None

    @classmethod
    def of(cls, sampler: Any = None, recipe: Any = None, metric: Any = None) -> Own:
        """Check what a caller gives.

        Args:
            sampler: a name or a `Sampler`.
            recipe: a name, a `Recipe` or a sequence of stages.
            metric: a name, a `Metric` or the score of one.

        Raises:
            BadInput: a value is of another kind.
        """
        return cls(_sampler(sampler), _recipe(recipe), _metric(metric))

    @property
    def options(self) -> dict[str, str]:
        """What was given by name, as options of the configuration."""
        given = {"sampler": self.sampler, "recipe": self.recipe}
        return {option: value for option, value in given.items() if isinstance(value, str)}

    def named(self, config: RunConfig) -> RunConfig:
        """The configuration with the names of what was given by value."""
        sampler, metric, recipe = self._names
        search = replace(config.search, own_sampler=sampler, own_metric=metric)
        return replace(config, search=search, compression=replace(config.compression, own_recipe=recipe))

    @property
    def _names(self) -> tuple[str | None, str | None, str | None]:
        """Of the sampler, the metric and the recipe; None if it was not given by value."""
        sampler = None if self.sampler is None or isinstance(self.sampler, str) else qualified_name(self.sampler)
        metric = qualified_name(self.metric.score) if isinstance(self.metric, Metric) else None
        return sampler, metric, self.recipe.title if isinstance(self.recipe, Recipe) else None

    def measured(self, task: Task) -> Task:
        """The task with the metric as its goal, if one was given.

        Raises:
            BadInput: a name is not that of the task's own metric, or the task's examples have no truth to score.
        """
        if isinstance(self.metric, Metric):
            return own_metric.with_metric(task, self.metric)
        if self.metric is not None and self.metric != task.goal.metric:
            raise BadInput(
                f"The task '{task.name}' has the metric '{task.goal.metric}', and metric='{self.metric}' is another; "
                "give a searchkit.Metric, whose score takes the decisions and the targets."
            )
        return task


def require_given(run: Run, config: RunConfig, own: Own, task: Task) -> None:
    """Check that a run that goes on is given the very sampler, recipe and metric that it began with.

    Args:
        run: the run.
        config: its configuration, which keeps the names.
        own: what is given now; the task has the metric already.
        task: its data, see `Own.measured`.

    Raises:
        BadInput: one is not given, or is another.
    """
    sampler, _, recipe = own._names
    given = {
        "sampler": (config.search.own_sampler, sampler),
        "metric": (config.search.own_metric, own_metric.name_of(task)),
        "recipe": (config.compression.own_recipe, recipe),
    }
    _require(run, given, "resume")
    for option, value in own.options.items():
        kept = config.search.sampler if option == "sampler" else config.compression.recipe
        if value != kept:
            raise BadInput(f"The run '{run.name}' has {option}={kept} and goes on with it; leave out {option}={value}.")


def require_metric(run: Run, config: RunConfig, task: Task) -> None:
    """Check that the task has the metric that a run was searched by.

    Raises:
        BadInput: it has another, or one that is better in the other direction.
    """
    _require(run, {"metric": (config.search.own_metric, own_metric.name_of(task))}, "compress")
    goal = task.goal
    for about in (run.read_json("search.json", SearchFile) or {}).values():
        if (about["goal"], about["direction"]) != (goal.metric, goal.direction):
            raise BadInput(
                f"The run '{run.name}' was searched to {about['direction']} {about['goal']}, and the metric is now to "
                f"{goal.direction} {goal.metric}; give it the metric that it had."
            )


def _require(run: Run, given: dict[str, tuple[str | None, str | None]], verb: str) -> None:
    """Raises BadInput unless what was given then and what is given now have the same names."""
    missing = [what for what, (then, now) in given.items() if then is not None and now is None]
    if missing:
        values = ", ".join(f"{what}=<{given[what][0]}>" for what in missing)
        raise BadInput(
            f"The run '{run.name}' keeps the names alone of what it was given by value; give it again in Python: "
            f"searchkit.{verb}(run, {values})."
        )
    for what, (then, now) in given.items():
        if then != now:
            had = f"the {what} {then}" if then else f"no {what}"
            raise BadInput(f"The run '{run.name}' was given {had} by value, and {now} is another; give it what it had.")


def _sampler(given: object) -> Any:
    """A name, or a sampler; one that the command line knows is its name."""
    if given is None or isinstance(given, str):
        return given
    # A class that was not called, such as `Tpe`, has both of these too: the default of its field is a class attribute.
    propose, name = getattr(given, "propose", None), getattr(given, "name", None)
    if isinstance(given, type) or not callable(propose) or not isinstance(name, str):
        raise BadInput(
            f"sampler={given!r:.80} is no sampler; give a name, or a value with a name and a method "
            "propose(trials, ask, view), see searchkit.Sampler."
        )
    from searchkit.search.named_samplers import NAMED

    # Ours are frozen dataclasses: an equal one is the one that the name stands for.
    return name if NAMED.get(name) == given else given


def _recipe(given: object) -> str | Recipe | None:
    if given is None or isinstance(given, (str, Recipe)):
        return given
    if not isinstance(given, Sequence):
        raise BadInput(f"recipe={given!r:.80} is no recipe; give a name, or stages such as (Promote(), Export()).")
    return recipe_of(given)


def _metric(given: object) -> str | Metric | None:
    if given is None or isinstance(given, (str, Metric)):
        return given
    # A lambda is named "<lambda>", which would be the metric's name.
    name = getattr(given, "__name__", type(given).__name__)
    if isinstance(given, type) or not callable(given) or not name.isidentifier():
        raise BadInput(
            f"metric={given!r:.80} is no metric; give a searchkit.Metric with a name, or a function with one that "
            "takes the decisions and the targets."
        )
    return Metric(name, given)
