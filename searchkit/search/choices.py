"""Ways to choose the value of a parameter: at random, at a place of its range, as a parent has it, from a grid.

A `Choose` stands in the place of an Optuna trial while a family's `sample` runs; see `searchkit.search.candidates`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

T = TypeVar("T")

Choose = Callable[[str, BaseDistribution], Any]
"""Gives a parameter, by its name and its distribution, a value."""


def at_random(rng: random.Random) -> Choose:
    """Any value, each as likely as another on the parameter's own scale."""

    def choose(name: str, distribution: BaseDistribution) -> Any:
        match distribution:
            case CategoricalDistribution():
                return rng.choice(distribution.choices)
            # Each whole number stands for the stretch from half a step below it to half a step above it. Beside log,
            # Optuna allows no step but 1.
            case IntDistribution(low=low, high=high, step=step, log=True):
                return min(high, max(low, round(math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5))))))
            case IntDistribution(low=low, high=high, step=step):
                return low + step * rng.randrange((high - low) // step + 1)
            case FloatDistribution(low=low, high=high, log=True):
                return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
            case FloatDistribution(low=low, high=high, step=None):
                return rng.uniform(low, high)
            case FloatDistribution(low=low, high=high, step=float(step)):
                return min(high, low + step * rng.randrange(round((high - low) / step) + 1))  # 3 × 0.1 is above 0.3
        raise TypeError(f"no way to choose {name} from {distribution}")

    return choose


def at(share: float) -> Choose:
    """A place of the range: the lowest or first value at 0, the highest or last at 1, the middle at .5."""

    def choose(name: str, distribution: BaseDistribution) -> Any:
        values = grid_values(distribution)
        return values[round(share * (len(values) - 1))]

    return choose


def like(params: Mapping[str, Any], otherwise: Choose) -> Choose:
    """The given values, by the parameter's name; what `otherwise` says for one that is not there or may not be had."""

    def choose(name: str, distribution: BaseDistribution) -> Any:
        if name in params and holds(distribution, params[name]):
            return params[name]
        return otherwise(name, distribution)

    return choose


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution may give this value."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return value in choices
        case IntDistribution(low=low, high=high, step=step):
            return isinstance(value, int) and low <= value <= high and (value - low) % step == 0
        case FloatDistribution(low=low, high=high):
            return isinstance(value, (int, float)) and low <= value <= high
    return False


def grid_values(distribution: BaseDistribution, points: int = 5) -> list[Any]:
    """All values, low to high; at most `points` of a number's, evenly spaced on its own scale."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            if not log and (high - low) // step < points:
                return list(range(low, high + 1, step))
            found = {_between(low, high, k / (points - 1), log) for k in range(points)}
            return sorted({min(high, low + step * round((v - low) / step)) for v in found})
        case FloatDistribution(low=low, high=high, step=float(step)):
            steps = round((high - low) / step)
            return [min(high, low + step * k) for k in sorted({round(steps * k / (points - 1)) for k in range(points)})]
        case FloatDistribution(low=low, high=high, log=log):
            return sorted({_between(low, high, k / (points - 1), log) for k in range(points)})
    raise TypeError(f"no grid over {distribution}")


def _between(low: float, high: float, share: float, log: bool) -> float:
    # The ends as they are: computed, they may differ in the last digit and lie outside of the range.
    if share in (0.0, 1.0):
        return high if share else low
    return math.exp(math.log(low) + share * math.log(high / low)) if log else low + share * (high - low)


def grid_leaves(sample: Callable[[Choose], T], *, at_most: int) -> list[T] | None:
    """Find every leaf of a define-by-run tree of choices.

    It works as an odometer whose wheels are discovered while it turns: which parameters there are depends on the values
    of those before.

    Args:
        sample: Makes a leaf of what it is given to choose by.
        at_most: Leaves.

    Returns:
        The leaves, the last parameter changing fastest; None if there are more.
    """
    found: list[T] = []
    path: list[int] = []
    while True:
        sizes: list[int] = []

        # `path` holds one digit a choice, in the order in which `sample` asks; choices beyond it take their first
        # value.
        def choose(name: str, distribution: BaseDistribution, sizes: list[int] = sizes, path: list[int] = path) -> Any:
            values = grid_values(distribution)
            sizes.append(len(values))
            return values[path[len(sizes) - 1] if len(sizes) <= len(path) else 0]

        found.append(sample(choose))
        path += [0] * (len(sizes) - len(path))
        # The carry: a digit at its last value is dropped, since the next value of the one before it may lead to other
        # choices.
        while path and path[-1] == sizes[len(path) - 1] - 1:
            path.pop()
        if not path:
            return found
        if len(found) >= at_most:
            return None
        path[-1] += 1


def neighbor(distribution: BaseDistribution, value: Any, rng: random.Random) -> Any:
    """Another value: a different choice; for a number, a step of about a fifth of its range, on its own scale.

    A step stops at the ends of the range. From an end itself, a whole number on a log scale always steps inwards; of
    other numbers half of the steps stay there, which costs another proposal.
    """
    match distribution:
        case CategoricalDistribution(choices=choices):
            others = [c for c in choices if c != value]
            return rng.choice(others) if others else value
        case IntDistribution(low=low, high=high, log=True):
            share = abs(rng.gauss(0.0, math.log(high / low) / 5))
            up = rng.random() < 0.5 if low < value < high else value == low
            # At least to the next whole number: among small ones it is further away than most steps.
            moved = (
                max(value + 1, round(value * math.exp(share))) if up else min(value - 1, round(value / math.exp(share)))
            )
            return min(high, max(low, moved))
        case IntDistribution(low=low, high=high, step=step):
            reach = max(1, round((high - low) / step / 5))
            moved = value + step * rng.choice((-1, 1)) * rng.randint(1, reach)
            return min(high, max(low, moved))
        case FloatDistribution(low=low, high=high, log=True):
            return min(high, max(low, value * math.exp(rng.gauss(0.0, math.log(high / low) / 5))))
        case FloatDistribution(low=low, high=high, step=float(step)):
            count, at_value = round((high - low) / step), round((value - low) / step)
            moved = at_value + rng.choice((-1, 1)) * rng.randint(1, max(1, round(count / 5)))
            return min(high, low + step * min(count, max(0, moved)))
        case FloatDistribution(low=low, high=high):
            return min(high, max(low, value + rng.gauss(0.0, (high - low) / 5)))
    return value
