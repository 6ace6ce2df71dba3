"""A metric of your own, for any task whose examples each have a truth: what an answer is worth, example by example.

The metric must be a mean over examples: only then can two models be compared in pairs, on the very same examples, which
tells smaller differences apart than two intervals do. Not to be confused with the loss, by which networks are trained:
that stays the task's own.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from searchkit.core.data_spec import Arrays, Split
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON, qualified_name
from searchkit.core.task import Task

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(decisions, targets) to scores: (n,) or (n, …) each, on one scale, to (n,)."""


@dataclass(frozen=True)
class Metric:
    """The mean of a score over examples.

    Attributes:
        name: What runs, reports and bundles call it, such as "cost_of_errors".
        score: Takes the decisions (class indices, -1 if an answer is no number, or values in the target's unit) and the
            targets of n examples, and gives the n scores. At the top of a module if worker processes are to train: they
            import it.
        direction: Which way is better.
        span: From useless to good, in the metric's unit: what a tolerated drop of a metric is a share of.
    """

    name: str
    score: Score
    direction: Literal["maximize", "minimize"] = "maximize"
    span: float = 1.0


def with_metric(task: Task, metric: Metric) -> Task:
    """The same task with this metric as its goal; the task's own metrics are still told beside it.

    Args:
        task: Is left as it is.
        metric: Searches, stages and reports then go by it.

    Raises:
        BadInput: The examples of the task have no truth of their own (an agent's actions, generated pictures), so that
            there is nothing to score; or, at the first evaluation, the score is not (n,) finite numbers. Only the
            score of a decision that is itself no finite number, as of a network that diverged, may be no number.
    """
    if task.spec.generates or task.spec.acts:
        raise BadInput(
            f"The task '{task.name}' takes no metric of your own: its answers have no targets to be compared with; its "
            f"metric is {task.goal.metric}."
        )
    # Bound to the original task, whose evaluation keeps its own goal; `made.evaluate` would call itself.
    own, pack = task.evaluate, task.pack

    def evaluate(predict: Predict, split: Split) -> Evaluation:
        found = own(predict, split)
        scores = _checked(metric, found)
        metrics = {**found.metrics, metric.name: goal.value(scores)}
        return Evaluation(metrics, scores, found.decisions, found.targets)

    def packed() -> tuple[dict[str, JSON], Arrays]:
        words, arrays = pack()
        return {"module": "own_metric", "task": words, "metric": _reference(metric)}, arrays

    made = copy.copy(task)
    made.goal = goal = Goal(metric.name, metric.direction, span=metric.span)
    # on the instance: whatever else the task is (grouped, with baselines) it stays, and its own loop finds these
    vars(made).update(evaluate=evaluate, pack=packed, own_metric=qualified_name(metric.score))
    return made


def name_of(task: Task) -> str | None:
    """The qualified name of the score that `with_metric` made the task's goal; None if the goal is the task's own."""
    found: str | None = getattr(task, "own_metric", None)
    return found


def _checked(metric: Metric, found: Evaluation) -> np.ndarray:
    scores = np.asarray(metric.score(found.decisions, found.targets), dtype=np.float64)
    if scores.shape != (len(found.decisions),):
        raise BadInput(
            f"The metric '{metric.name}' gives scores of shape {scores.shape} for {len(found.decisions)} examples; it "
            "gives one number an example."
        )
    # A network that answers NaN gets a metric of NaN, and its trial is passed over, as with a metric of the task's own.
    sound = np.isfinite(found.decisions).reshape(len(scores), -1).all(axis=1)
    if (bad := np.flatnonzero(sound & ~np.isfinite(scores))).size:
        raise BadInput(
            f"The metric '{metric.name}' gives {scores[bad[0]]} for example {bad[0]}; a mean needs finite numbers, so "
            "its function must give one for every example."
        )
    return scores


def _reference(metric: Metric) -> dict[str, JSON]:
    """How a worker process finds the metric: a function travels by its name, as pickle has it."""
    module, name = metric.score.__module__, metric.score.__qualname__
    # A lambda, a nested function or a method has a `<` or a dot in its qualified name.
    if module == "__main__" or not name.isidentifier():
        raise BadInput(
            f"Worker processes cannot import the score of the metric '{metric.name}' ({module}.{name}); define it at "
            "the top of a module, or search in this process (executor inline)."
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    plain = {"name": metric.name, "direction": metric.direction, "span": metric.span}
    return {**plain, "score": {"module": module, "function": name, "file": file}}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> Task:
    """The inverse of a packed task with a metric. Raises BadInput if its function cannot be imported here."""
    from searchkit.tasks import registry

    plain = dict(config["metric"])
    return with_metric(registry.unpack(config["task"], arrays), Metric(**{**plain, "score": _found(plain["score"])}))


def _found(at: Mapping[str, JSON]) -> Score:
    """By the module's name; by its file if a worker does not look for modules, in the folder of a user's script."""
    try:
        module = importlib.import_module(at["module"])
    except ImportError as error:
        spec = importlib.util.spec_from_file_location(at["module"], at["file"]) if at["file"] else None
        if spec is None or spec.loader is None:
            raise BadInput(f"A worker process cannot import '{at['module']}' ({error}).") from error
        # Registered before it runs, as an import does: a dataclass in the file looks its own module up in sys.modules.
        module = sys.modules[at["module"]] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    score: Score = getattr(module, at["function"])
    return score
