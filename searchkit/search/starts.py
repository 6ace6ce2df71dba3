"""Where the first weights of a trial come from: drawn at random, from a trained trial, or from a supernet.

A trial's facts in the study say it, so that a resumed search starts the trial from the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core.random_state import seeded
from searchkit.core.serialization import JSON, thaw
from searchkit.core.space import Space
from searchkit.core.state import snapshot
from searchkit.search.candidates import Candidate
from searchkit.search.tally import TRAINED

if TYPE_CHECKING:
    from torch import nn

    from searchkit.nn.sharing import Copies

LEAST_SHARE = 0.5
"""Of a child's weights, that its parent must have: less is a start from scratch with a few old weights in it."""

MOST_PARENTS = 8
"""Trained trials that are looked at, the best first: each is built to be compared."""

FACT = "first_weights"
"""The trial's fact: {"parent": id of the artifact, "share": of the child's weights}; not there for random weights."""


class Starts(Protocol):
    """Chooses where trials start."""

    def facts(self, candidate: Candidate, trials: Sequence[FrozenTrial]) -> dict[str, JSON]:
        """What the new trial of a candidate keeps of its start; {} for random weights.

        Args:
            candidate: Can be built.
            trials: All so far.
        """

    def weights(self, facts: Mapping[str, JSON]) -> bytes:
        """The weights that a trial starts with, as safetensors; b"" for random ones.

        Args:
            facts: The trial's.
        """


class Scratch:
    """Every trial starts from random weights."""

    def facts(self, candidate: Candidate, trials: Sequence[FrozenTrial]) -> dict[str, JSON]:
        """See `Starts.facts`."""
        return {}

    def weights(self, facts: Mapping[str, JSON]) -> bytes:
        """See `Starts.weights`."""
        return b""


@dataclass(frozen=True)
class Parents:
    """A trial starts from the best trained one that has at least half of its weights.

    Net2Net (Chen et al. 2016, arXiv:1511.05641). If the family does not say how two networks share weights, or the two
    are of different kinds, tensors of the same name and shape are taken.

    Attributes:
        space: The family.
        ctx: Gives the run, where the trained trials are, and the goal.
    """

    space: Space
    ctx: Context

    def facts(self, candidate: Candidate, trials: Sequence[FrozenTrial]) -> dict[str, JSON]:
        """See `Starts.facts`."""
        goal, run = self.ctx.task.goal, self.ctx.run
        trained = [t for t in trials if t.user_attrs.get("status") == TRAINED and run.has(t.user_attrs["artifact"])]
        trained.sort(key=lambda t: (goal.loss(t.values[0]), t.number))
        if not trained:
            return {}
        child = self._built(candidate.arch)
        for trial in trained[:MOST_PARENTS]:
            arch: object = thaw(self.space.arch, trial.user_attrs["arch"])
            share = _share(child, self._found(candidate.arch, arch, child, self._built(arch)))
            if share >= LEAST_SHARE:
                return {FACT: {"parent": trial.user_attrs["artifact"], "share": round(share, 4)}}
        return {}

    def weights(self, facts: Mapping[str, JSON]) -> bytes:
        """See `Starts.weights`."""
        from safetensors.torch import save

        from searchkit.nn.sharing import inherit_, take_

        if FACT not in facts:
            return b""
        parent = self.ctx.run.load(facts[FACT]["parent"])
        child: object = thaw(self.space.arch, facts["arch"])
        other: object = thaw(self.space.arch, parent.arch)
        net = self._built(child, facts["seed"])
        with seeded(0):  # its random weights are replaced, and nothing else that draws is disturbed
            trained = self.ctx.network(parent)
        sharing = self.space.shares(child, other) if self.space.shares else None
        if sharing is None:
            take_(net, trained, self._found(child, other, net, trained))
        else:
            inherit_(net, trained, sharing)
        return save(snapshot(net.state_dict()))

    def _built(self, arch: object, seed: int = 0) -> nn.Module:
        return built(self.space, self.ctx, arch, seed)

    def _found(self, arch: object, other: object, net: nn.Module, other_net: nn.Module) -> Copies:
        from searchkit.nn.sharing import copies, same_name_and_shape

        sharing = self.space.shares(arch, other) if self.space.shares else None
        return same_name_and_shape(net, other_net) if sharing is None else copies(net, other_net, sharing)


def built(space: Space, ctx: Context, arch: object, seed: int) -> nn.Module:
    """The network with the random weights of `seed`; nothing else that draws is disturbed. Raises Infeasible."""
    with seeded(seed):
        return space.build(arch, ctx.task.spec)


def _share(net: nn.Module, found: Copies) -> float:
    from searchkit.nn.sharing import share_inside

    return share_inside(net, found)
