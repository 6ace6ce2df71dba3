"""A kind: the candidates of a family that differ in widths, depths and kernels alone, so that one network holds them.

Which parameters those are is found by trying: a parameter is elastic if the family says that two networks that differ
in it share weights. All others stay as they are in the largest network.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from searchkit.core.errors import Infeasible
from searchkit.core.serialization import freeze
from searchkit.search.candidates import Candidate
from searchkit.search.choices import Choose, at, at_random, grid_values, like, neighbor
from searchkit.search.sampler import SearchView
from searchkit.search.starts import built

if TYPE_CHECKING:
    from torch import nn

    from searchkit.context import Context
    from searchkit.nn.sharing import Copies

MOST_DRAWS = 40
"""Draws for one candidate of a kind that is inside the largest network."""


def default_training(view: SearchView) -> dict[str, Any]:
    """The parameters that give the family's own training."""
    training = freeze(view.space.training.default)
    return {f"train.{name}": json.dumps(v) if isinstance(v, list) else v for name, v in training.items()}


@dataclass(frozen=True)
class Kind:
    """The candidates inside the largest network.

    Attributes:
        view: The search.
        ctx: Gives the task.
        params: Of the largest candidate.
    """

    view: SearchView
    ctx: Context
    params: dict[str, Any]

    def drawn(self, choose: Choose) -> Candidate:
        """A candidate with the values of `choose`, trained by the family's default."""
        return self.view.draw(like(default_training(self.view), choose), "supernet")

    @cached_property
    def largest(self) -> Candidate:
        """The candidate that holds all others."""
        return self.drawn(like(self.params, at(1.0)))

    @cached_property
    def net(self) -> nn.Module:
        """The largest candidate's network, untrained; only its shapes are of interest."""
        return self.built(self.largest)

    @cached_property
    def elastic(self) -> tuple[str, ...]:
        """The parameters in which the candidates differ."""
        found = []
        for name in sorted(name for name in self.largest.params if not name.startswith("train.")):
            values = [v for v in grid_values(self.largest.distributions[name]) if v != self.largest.params[name]]
            if any(self.found(self.drawn(like({**self.params, name: value}, at(0.0)))) for value in values):
                found.append(name)
        return tuple(found)

    @cached_property
    def smallest(self) -> Candidate:
        """The candidate with every elastic parameter at its lowest, as far as it is inside; else the largest."""
        params = dict(self.params)
        for name in self.elastic:
            sized: list[tuple[int, int, Any]] = []
            for value in grid_values(self.largest.distributions[name]):
                candidate = self.drawn(like({**params, name: value}, at(0.0)))
                if self.found(candidate) is not None:
                    sized.append((sum(p.numel() for p in self.built(candidate).parameters()), len(sized), value))
            if sized:
                params[name] = min(sized)[2]
        return self.drawn(like(params, at(0.0)))

    def built(self, candidate: Candidate) -> nn.Module:
        """The candidate's network, untrained. Raises Infeasible."""
        if candidate.arch is None:
            raise Infeasible(candidate.reason)
        return built(self.view.space, self.ctx, candidate.arch, 0)

    def found(self, candidate: Candidate, net: nn.Module | None = None) -> Copies | None:
        """Where the candidate's weights lie in the largest network's; None if it is not inside.

        Args:
            candidate: Any.
            net: Its network, if it is built already.
        """
        from searchkit.nn.sharing import copies, is_inside

        shares = self.view.space.shares
        assert shares is not None
        if candidate.arch is None or (sharing := shares(candidate.arch, self.largest.arch)) is None:
            return None
        try:
            net = net or self.built(candidate)
        except Infeasible:
            return None
        found = copies(net, self.net, sharing)
        return found if is_inside(net, found) else None

    def at_random(self, rng: random.Random) -> Candidate | None:
        """A candidate of the kind, each of its elastic parameters at random; None if no draw is inside."""
        fixed = {name: value for name, value in self.params.items() if name not in self.elastic}
        return self._first(lambda: self.drawn(like(fixed, at_random(rng))))

    def near(self, params: dict[str, Any], rng: random.Random) -> Candidate | None:
        """A candidate that differs from `params` in one elastic parameter or two; None if no draw is inside."""

        def changed() -> Candidate:
            names = [name for name in self.elastic if name in params]
            values = dict(params)
            for name in rng.sample(names, k=min(len(names), 1 if rng.random() < 0.6 else 2)):
                # The largest candidate need not have the parameter: a network of fewer stages asks for fewer.
                if (distribution := self.largest.distributions.get(name)) is not None:
                    values[name] = neighbor(distribution, params[name], rng)
            return self.drawn(like(values, at_random(rng)))

        return self._first(changed)

    def _first(self, make: Callable[[], Candidate]) -> Candidate | None:
        tries = (make() for _ in range(MOST_DRAWS))
        return next((candidate for candidate in tries if self.found(candidate) is not None), None)


def grown(view: SearchView, ctx: Context, start: Candidate, fits: Callable[[Candidate], bool]) -> Kind:
    """The kind of a candidate: it is made larger, a parameter at a time, for as long as it fits and holds what it held.

    Args:
        view: The search.
        ctx: Gives the task.
        start: A candidate that can be built.
        fits: Whether a network may be so large.
    """
    best = Kind(view, ctx, {n: v for n, v in start.params.items() if not n.startswith("train.")})
    improved = True
    while improved:
        improved = False
        for name in sorted(best.params):
            for value in grid_values(best.largest.distributions[name]):
                if value == best.params[name]:
                    continue
                candidate = best.drawn(like({**best.params, name: value}, at(1.0)))
                larger = Kind(view, ctx, {n: v for n, v in candidate.params.items() if not n.startswith("train.")})
                if _holds(larger, best) and fits(candidate):
                    best, improved = larger, True
    return best


def _holds(larger: Kind, kind: Kind) -> bool:
    """Whether a kind has more weights than another and all of those."""
    try:
        n_larger, n_kind = (sum(p.numel() for p in k.net.parameters()) for k in (larger, kind))
    except Infeasible:
        return False
    return n_larger > n_kind and larger.found(kind.largest) is not None


def other_kinds(view: SearchView, rng: random.Random, n: int) -> list[Candidate]:
    """Middle-sized candidates of different kinds that may fit the limits: the middle one, then at random."""
    found: dict[tuple[Any, ...], Candidate] = {}
    for number in range(20 * n):
        drawn = view.draw(at(0.5) if number == 0 else at_random(rng), "kind")
        kinds = {k: v for k, v in drawn.params.items() if isinstance(drawn.distributions[k], CategoricalDistribution)}
        place = (0.5, 0.25, 0.0)[3 * number // (20 * n)]  # smaller ones if few of the middle fit
        candidate = view.draw(like({**kinds, **default_training(view)}, at(place)), "kind")
        weighed = view.weigh(candidate) if candidate.arch is not None else None
        shares = view.space.shares
        assert shares is not None
        if weighed is not None and weighed[1]:
            if all(shares(candidate.arch, other.arch) is None for other in found.values()):
                found[tuple(sorted(map(str, candidate.params.items())))] = candidate
        if len(found) == n:
            break
    return list(found.values())
