"""What is found out once about a search and kept with the run: what it is for, and the profile of its space.

A resumed search reads it back, so that it decides as the first did.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import fields

from searchkit.context import Context
from searchkit.core.quantities import show_cost
from searchkit.core.run_files import SearchFile
from searchkit.core.serialization import JSON, digest, freeze
from searchkit.core.space import Space
from searchkit.search.cost_model import CostModel
from searchkit.search.feasibility import profile_space
from searchkit.search.results import FILE
from searchkit.search.sampler import Directions
from searchkit.search.settings import SearchSettings
from searchkit.search.storage import without_password

LIMITED = {"params": "parameters", "macs": "MACs", "size_bytes": "file size", "latency_ms": "latency"}
"""Costs in words."""


class SearchRecord:
    """This search's entry in search.json, written when it first starts.

    Attributes:
        directions: Of the objectives, the goal's first.
        about: The entry.
    """

    def __init__(self, space: Space, ctx: Context, settings: SearchSettings) -> None:
        self.space, self.ctx, self.settings = space, ctx, settings
        goal = ctx.task.goal
        self.directions: Directions = (goal.direction, *(("minimize",) if settings.cost else ()))
        self.about: dict[str, JSON] = (ctx.run.read_json(FILE, SearchFile) or {}).get(space.name, {})
        # Only once: the study's name and the owner have to stay, also if the run's folder has been renamed since.
        if not self.about:
            self._note(
                goal=goal.metric,
                direction=goal.direction,
                directions=list(self.directions),
                cost=settings.cost,
                study=f"{ctx.run.path.name}:{space.name}",
                url=without_password(settings.storage) if settings.storage else None,
                owner=uuid.uuid4().hex[:12] if settings.storage else "",
                settings=_plain(settings),
            )

    @property
    def owner(self) -> str:
        """Who this coordinator is among those that share the study; empty if it is alone."""
        return str(self.about["owner"])

    @property
    def study(self) -> str:
        """The study's name in its database."""
        return str(self.about["study"])

    @property
    def facts(self) -> str:
        """What must be the same for two searches to share a study."""
        # Without the number of trials and the time: a search that is resumed may have more of both.
        task, budget = self.ctx.task, self.settings.budget
        shape = [budget.epochs, budget.rungs, budget.eta]
        return digest(task.name, freeze(task.spec), self.space.name, task.goal.metric, self.settings.cost, shape)

    def profile(self, book: CostModel) -> None:
        """Profile the space against the limits, once. Raises NothingFeasible."""
        if "profile" in self.about:
            return
        rows = profile_space(self.space, self.ctx, book, epochs=self.settings.budget.epochs)
        self._note(profile=rows)
        for row in rows:
            costs = ", ".join(show_cost(name, value) for name, value in row["cost"].items())
            limited = " and ".join(LIMITED[name] for name in row["breaches"])
            over = f"; over the limit on {limited}" if limited else ""
            self.ctx.echo(f"{row['which']} candidate: {costs}{over}")

    def _note(self, **entries: JSON) -> None:
        everything = self.ctx.run.read_json(FILE, SearchFile) or {}
        self.about |= entries
        everything[self.space.name] = self.about
        self.ctx.run.write_json(FILE, everything)


def _plain(settings: SearchSettings) -> dict[str, JSON]:
    """The settings as JSON: a sampler by its name, an endless budget as null, and no URL, which may hold a password."""
    found: dict[str, JSON] = {
        f.name: freeze(getattr(settings, f.name)) for f in fields(settings) if f.name != "sampler"
    }
    budget = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in found["budget"].items()}
    return {**found, "sampler": settings.sampler_name, "budget": budget, "storage": None}
