"""What is found out once about a search and kept with the run: what it is for, and the profile of its space.

A resumed search reads it back, so that it decides as the first did.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields

from searchkit.context import Context
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.quantities import show_cost
from searchkit.core.run_files import SearchFile
from searchkit.core.serialization import JSON, digest, freeze
from searchkit.search.cost_model import CostModel
from searchkit.search.entrants import Entrant
from searchkit.search.feasibility import profile_space
from searchkit.search.results import FILE
from searchkit.search.sampler import Directions
from searchkit.search.settings import SearchSettings
from searchkit.search.storage import without_password

LIMITED = {"params": "parameters", "macs": "MACs", "size_bytes": "file size", "latency_ms": "latency"}
"""Costs in words."""


class SearchRecord:
    """This search's entries in search.json, one a family, written when it first starts.

    Attributes:
        directions: Of the objectives, the goal's first.
        about: The entries by family.
    """

    def __init__(self, entrants: Sequence[Entrant], ctx: Context, settings: SearchSettings) -> None:
        self.entrants, self.ctx, self.settings = {e.space.name: e for e in entrants}, ctx, settings
        goal = ctx.task.goal
        self.directions: Directions = (goal.direction, *(("minimize",) if settings.cost else ()))
        known = ctx.run.read_json(FILE, SearchFile) or {}
        self.about: dict[str, dict[str, JSON]] = {name: known[name] for name in self.entrants if name in known}
        # Only once: the study's name and the owner have to stay, also if the run's folder has been renamed since.
        if not self.about:
            shared = {
                "goal": goal.metric,
                "direction": goal.direction,
                "directions": list(self.directions),
                "cost": settings.cost,
                "study": f"{ctx.run.path.name}:{self._families}",
                "url": without_password(settings.storage) if settings.storage else None,
                "owner": uuid.uuid4().hex[:12] if settings.storage else "",
            }
            self._note({e.space.name: {**shared, "settings": _plain(e.settings)} for e in entrants})

    @property
    def _families(self) -> str:
        """The families, in whatever order the user named them."""
        return "+".join(sorted(self.entrants))

    @property
    def _shared(self) -> dict[str, JSON]:
        """What the entries have in common."""
        return next(iter(self.about.values()))

    @property
    def owner(self) -> str:
        """Who this coordinator is among those that share the study; empty if it is alone."""
        return str(self._shared["owner"])

    @property
    def study(self) -> str:
        """The study's name in its database."""
        return str(self._shared["study"])

    @property
    def facts(self) -> str:
        """What must be the same for two searches to share a study."""
        # Without the number of trials and the time: a search that is resumed may have more of both.
        task, budget = self.ctx.task, self.settings.budget
        epochs = [self.entrants[name].settings.budget.epochs for name in sorted(self.entrants)]
        shape = [epochs if len(epochs) > 1 else epochs[0], budget.rungs, budget.eta]
        return digest(task.name, freeze(task.spec), self._families, task.goal.metric, self.settings.cost, shape)

    def profile(self, books: Mapping[str, CostModel]) -> list[str]:
        """Profile the families against the limits, each once.

        Args:
            books: What a candidate would cost, by family.

        Returns:
            The families that some candidate of is within the limits.

        Raises:
            NothingFeasible: There is none.
            BadInput: The only family has no candidate for the data.
        """
        for name, book in books.items():
            if not {"profile", "left_out"} & set(self.about[name]):
                self._profile(self.entrants[name], book)
        fitting = [name for name in books if "left_out" not in self.about[name]]
        if not fitting:
            reasons = [str(self.about[name]["left_out"]) for name in books]
            raise NothingFeasible(f"None of the families {', '.join(books)} can be searched; the first: {reasons[0]}")
        return fitting

    def _profile(self, entrant: Entrant, book: CostModel) -> None:
        name, echo = entrant.space.name, entrant.ctx.echo
        try:
            rows = profile_space(entrant.space, entrant.ctx, book, epochs=entrant.settings.budget.epochs)
        except (NothingFeasible, BadInput) as error:
            if len(self.entrants) == 1:
                raise
            self._note({name: {"left_out": str(error)}})
            echo(f"left out: {error}")
            return
        self._note({name: {"profile": rows}})
        for row in rows:
            costs = ", ".join(show_cost(cost, value) for cost, value in row["cost"].items())
            limited = " and ".join(LIMITED[limit] for limit in row["breaches"])
            over = f"; over the limit on {limited}" if limited else ""
            echo(f"{row['which']} candidate: {costs}{over}")

    def _note(self, entries: Mapping[str, Mapping[str, JSON]]) -> None:
        """Add to the entries of families, all at once."""
        self.about |= {name: {**self.about.get(name, {}), **entry} for name, entry in entries.items()}
        self.ctx.run.write_json(FILE, {**(self.ctx.run.read_json(FILE, SearchFile) or {}), **self.about})


def _plain(settings: SearchSettings) -> dict[str, JSON]:
    """The settings as JSON: a sampler by its name, an endless budget as null, and no URL, which may hold a password."""
    found: dict[str, JSON] = {
        f.name: freeze(getattr(settings, f.name)) for f in fields(settings) if f.name != "sampler"
    }
    budget = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in found["budget"].items()}
    return {**found, "sampler": settings.sampler_name, "budget": budget, "storage": None}
