"""Which units a smaller network keeps: what each is worth, and how many stay where.

Li et al., 2017 (norms), Liu et al., 2017 (BatchNorm scales), Molchanov et al., 2019 (Taylor). What is cut with what is
`searchkit.nn.surgery`' business.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from searchkit.core.errors import GateFailed, Inapplicable
from searchkit.core.serialization import JSON, derive_seed
from searchkit.nn.cuttable import channels, parts
from searchkit.nn.dependencies import Group, Member
from searchkit.nn.surgery import EXACT, apply_edits_, drops, gap, prunable_groups

IMPORTANCES = ("l1", "l2", "taylor", "bn", "random")
Cost: TypeAlias = Callable[[nn.Module], float]
Gradients: TypeAlias = Callable[[nn.Module], nn.Module]


class Uncuttable(GateFailed):
    """No cut of the network gives what was asked. why: a clause, for the report of a recipe that goes on without."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Prune fails: {why}. Ask for less pruning, or search another network.")
        self.why = why


@dataclass(frozen=True, slots=True)
class Ranking:
    """How units are ranked and how many go.

    Attributes:
        importance: One of IMPORTANCES.
        global_ranking: Whether the units of all groups are ranked together, each group's scores divided by their mean,
            instead of taking the same share of every group.
        round_to: Widths of at least four times this are left at a multiple of it, as vector units like them, and
            narrower ones of a depthwise convolution at one of BLOCK; 1 rounds nothing.
        narrow: Groups of fewer units (a bottleneck, not heads) are left whole if a quarter of the others is enough:
            they hold little and carry much.
        seed: Of the random importance.
    """

    importance: str = "l2"
    global_ranking: bool = False
    round_to: int = 8
    narrow: int = 16
    seed: int = 0


BLOCK = 4
"""ONNX Runtime has a quick depthwise convolution of pictures for channels of a multiple of this, and a slow one for any
other number: 9×9 over 22 channels take 17 times as long as over 24 (8×8, AVX-512); without groups it is all one."""


def importance(net: nn.Module, group: Group, ranking: Ranking) -> np.ndarray:
    """What each unit of a group is worth.

    Args:
        net: With gradients, if the importance is "taylor".
        group: The units that are cut together.
        ranking: Names the importance; "bn" takes l2 for a group without a BatchNorm.

    Returns:
        (units of the group,) float64 with mean 1.
    """
    if ranking.importance == "random":
        seed = derive_seed(ranking.seed, group.members[0].name, len(group))
        return np.random.default_rng(seed).uniform(0.0, 2.0, len(group))
    how, norms = ranking.importance, [m for m in group.members if isinstance(_module(net, m), _BatchNorm)]
    if how == "bn":
        how = "scale" if norms else "l2"
    scores = [s for m in (norms if how == "scale" else group.members) for s in _part_scores(net, m, how)]
    # Each matrix on its own scale, or the one with the largest numbers would decide. A matrix of zeros says nothing.
    scores = [s / s.mean() for s in scores if s.mean() > 0]
    return np.mean(scores, axis=0) if scores else np.ones(len(group))


def _part_scores(net: nn.Module, member: Member, how: str) -> list[np.ndarray]:
    """One score a unit from each matrix that the member cuts.

    Biases tell little of a unit, and scales count for "bn" only, so that an LSTM's forget bias or a LayerNorm does not
    drown the weights.
    """
    module, found = _module(net, member), []
    if module is None:
        return []
    n_units = channels(module, member.side)
    shared: np.ndarray | None = None  # of the units that several tensors share out, one value each
    for part in parts(module, member.side):
        tensor = part.tensor()
        if not part.is_parameter or (part.name != "weight" if how == "scale" else tensor.ndim < 2):
            continue
        weight = part.by_unit(tensor.detach()).double()
        if how == "taylor":
            gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            each = (weight * part.by_unit(gradient).double()).abs().sum(1)
        else:
            each = weight.square().sum(1).sqrt() if how == "l2" else weight.abs().sum(1)
        if part.first is None:
            found.append(np.resize(each.numpy(), n_units))  # a grouped convolution stores one group's inputs
        else:
            shared = np.zeros(n_units) if shared is None else shared
            shared[part.first : part.first + len(each)] += each.numpy()
    found += [] if shared is None else [shared]
    # A unit of the group may be several of this side, such as the pixels of a channel behind a flatten.
    return [np.array([values[list(unit)].sum() for unit in member.indices]) for values in found]


def _module(net: nn.Module, member: Member) -> nn.Module | None:
    """None for a parameter that stands by itself: it is cut along, and has no say."""
    return None if member.side.startswith("axis") else net.get_submodule(member.name)


def widths(scores: Sequence[np.ndarray], keep: float, ranking: Ranking, grains: Sequence[int]) -> list[int]:
    """How many units each group keeps if a share of all is kept.

    Args:
        scores: Of the units, a group.
        keep: The share, 0 to 1.
        ranking: Whether the groups are ranked together, and how widths are rounded.
        grains: As in `Cuts`.

    Returns:
        At least one, a group.
    """
    if ranking.global_ranking:
        pooled = np.sort(np.concatenate(scores))
        threshold = pooled[min(len(pooled) - 1, round((1.0 - keep) * len(pooled)))] if keep < 1 else -math.inf
        # a tenth of every group stays: a layer of two units is a dead end that no recovery opens
        kept = [max(math.ceil(0.1 * len(s)), int((s >= threshold).sum())) for s in scores]
    else:
        kept = [round(keep * len(s)) for s in scores]
    return [_rounded(max(1, k), len(s), ranking.round_to, g) for k, s, g in zip(kept, scores, grains, strict=True)]


def _rounded(width: int, before: int, round_to: int, grain: int) -> int:
    step = _step(before, round_to, grain)
    return min(before, math.ceil(width / step) * step)


def _step(before: int, round_to: int, grain: int) -> int:
    """What a width of `before` is cut in."""
    return round_to if before >= 4 * round_to else min(grain, round_to) if before >= 2 * grain else 1


def grain(net: nn.Module, group: Group) -> int:
    """What a narrow width is cut in: BLOCK if the group has a depthwise convolution of pictures in it, else 1."""
    modules = [
        part for member in group.members if (found := _module(net, member)) is not None for part in found.modules()
    ]
    return BLOCK if any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in modules) else 1


def runs(net: nn.Module, group: Group) -> np.ndarray:
    """The number of the run that each unit is in: (units of the group,).

    Units that a module shares out to several tensors (to kernels of several sizes) are in one run if each such module
    has them in one tensor.
    """
    found = [np.zeros(len(group), int)]
    for member in group.members:
        module = _module(net, member)
        shared = [] if module is None else [p.first for p in parts(module, member.side) if p.first is not None]
        if shared:
            found.append(np.searchsorted(shared, [unit[0] for unit in member.indices], side="right"))
    # (modules + 1, units): units with equal columns are in one run. The row of zeros is for groups that no module
    # shares out.
    return np.unique(np.stack(found), axis=1, return_inverse=True)[1].reshape(-1)


def least(scores: np.ndarray, runs: np.ndarray, keep: int, step: Callable[[int], int]) -> list[int]:
    """The units that go, least important first.

    Args:
        scores: Of the units.
        runs: As `runs` gives them. If there are several, each keeps a multiple of what its width is cut in, or all.
        keep: Units that are to stay. Fewer may, if that does not come out even; at least one does.
        step: What a width is cut in.
    """
    order = np.argsort(scores, kind="stable")
    if runs.max() == 0:
        return [int(u) for u in order[: len(scores) - keep]]
    # Each run in blocks of what its width is cut in, best units first. The blocks with the best means stay as long as
    # they fit, so a run loses whole blocks from its end.
    blocks: list[tuple[int, np.ndarray]] = []
    for run in range(runs.max() + 1):
        best_first = order[runs[order] == run][::-1]
        wide = step(len(best_first))
        blocks += [(run, best_first[start : start + wide]) for start in range(0, len(best_first), wide)]
    kept: set[int] = set()
    done: set[int] = set()  # runs of which one block was too many
    for run, block in sorted(blocks, key=lambda found: -float(scores[found[1]].mean())):
        if run not in done and (len(kept) + len(block) <= keep or not kept):
            kept.update(int(u) for u in block)
        else:
            done.add(run)
    return [int(u) for u in order if u not in kept]


@dataclass(frozen=True)
class Cuts:
    """What could be cut from a network.

    Attributes:
        net: The network.
        groups: Of units that are cut together.
        scores: What each unit is worth, a group.
        ranking: How units are chosen.
        runs: Of the units, a group.
        grains: What narrow widths are cut in, a group.
        whole: Names of the layers that stay whole because no cut of them could be proven.
    """

    net: nn.Module
    groups: tuple[Group, ...]
    scores: tuple[np.ndarray, ...]
    ranking: Ranking
    runs: tuple[np.ndarray, ...]
    grains: tuple[int, ...]
    whole: tuple[str, ...] = ()

    def edits(self, kept: Sequence[int]) -> list[JSON]:
        """The edits that leave so many units in each group."""
        chosen = []
        for group, scores, its_runs, k, grain in zip(
            self.groups, self.scores, self.runs, kept, self.grains, strict=True
        ):
            step = functools.partial(_step, round_to=self.ranking.round_to, grain=grain)
            chosen.append((group, least(scores, its_runs, k, step)))
        return drops(chosen)

    def widths(self, keep: float) -> list[int]:
        """How many units each group keeps if a share `keep` of all is kept."""
        return widths(self.scores, keep, self.ranking, self.grains)

    def sparing_the_narrow(self, cost: Cost, target: float) -> Cuts:
        """The same without the narrow groups, if the wide ones alone can give the target."""
        # Measured: cutting an autoencoder's code from 9 units to 6 took its error from 10.5 to 13.0.
        wide = [
            index
            for index, group in enumerate(self.groups)
            if len(group) >= self.ranking.narrow or group.members[0].side == "inner"
        ]
        spared = replace(
            self,
            groups=tuple(self.groups[i] for i in wide),
            scores=tuple(self.scores[i] for i in wide),
            runs=tuple(self.runs[i] for i in wide),
            grains=tuple(self.grains[i] for i in wide),
        )
        enough = wide and cost(spared.trial(spared.widths(0.25))) <= target
        return spared if enough else self

    def trial(self, kept: Sequence[int]) -> nn.Module:
        """A copy of the network with so many units left in each group."""
        net = copy.deepcopy(self.net)
        apply_edits_(net, self.edits(kept))
        return net

    def fit(self, cost: Cost, target: float, *, rounds: int = 12) -> list[int]:
        """The widest widths that bisection finds within a cost.

        Args:
            cost: Of a network.
            target: At most so much, in the unit of `cost`.
            rounds: Of bisection.

        Raises:
            Uncuttable: The smallest network costs more.
        """
        smallest = cost(self.trial(self.widths(0.0)))
        if smallest > target:
            left = f", with {listed(self.whole)} left whole because pruning cannot follow them" if self.whole else ""
            raise Uncuttable(
                f"it cannot reach {target:,.6g}: the smallest that cutting this network gives is {smallest:,.6g}{left}"
            )
        low, high = 0.0, 1.0  # the cost at low is within the target
        for _ in range(rounds):
            middle = (low + high) / 2
            fits = cost(self.trial(self.widths(middle))) <= target
            low, high = (middle, high) if fits else (low, middle)
        return self.widths(low)


def listed(names: Sequence[str], most: int = 6) -> str:
    """The names in a row, or the first of them and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def cuts(net: nn.Module, example: Sequence[Tensor], ranking: Ranking, gradients: Gradients | None = None) -> Cuts:
    """What could be cut from a network.

    Args:
        net: The network.
        example: Its inputs, of at least 2 rows.
        ranking: How units are chosen.
        gradients: Gives a copy of the network that has them; "taylor" needs it.

    Raises:
        Inapplicable: The network has no inner units.
        Uncuttable: Those that it has cannot be cut.
    """
    groups, refused = prunable_groups(net, example)
    if not groups and not refused:
        raise Inapplicable("the network has no inner units to cut")
    if not groups:
        raise Uncuttable(f"it can cut nothing: {listed(refused)} could not be followed through the network")
    scored = gradients(net) if gradients is not None else net
    return Cuts(
        net,
        groups,
        scores=tuple(importance(scored, group, ranking) for group in groups),
        ranking=ranking,
        runs=tuple(runs(net, group) for group in groups),
        grains=tuple(grain(net, group) for group in groups),
        whole=refused,
    )


def prune_(
    net: nn.Module,
    example: Sequence[Tensor],
    *,
    cost: Cost,
    target: float,
    ranking: Ranking,
    gradients: Gradients | None = None,
) -> list[JSON]:
    """One round, in place: cut the least important units until `cost` is at most `target`; the edits that were made.

    As `cuts`, and raises Uncuttable if even the smallest network costs more, or if the cut network does not answer as
    the one with the same units masked.
    """
    found = cuts(net, example, ranking, gradients).sparing_the_narrow(cost, target)
    kept = found.fit(cost, target)
    made = found.edits(_filled(kept, found, lambda k: cost(found.trial(k)) <= target))
    # Before the edits: `gap` works on copies of the uncut network, whose indices the edits have.
    difference = gap(net, example, made)
    if not difference <= EXACT:
        raise Uncuttable(
            f"the cut network does not answer as the one with the same units set to zero (they differ by "
            f"{difference:.2g}); its forward may depend on a width"
        )
    apply_edits_(net, made)
    return made


def _filled(kept: list[int], cuts: Cuts, fits: Callable[[list[int]], bool]) -> list[int]:
    """Give back units while the target allows; the group whose next unit is worth most comes first.

    Rounding makes the cost fall in leaps, which bisection alone overshoots.
    """
    kept, scores, open_groups = list(kept), cuts.scores, set(range(len(kept)))
    while open_groups:
        ordered = {g: np.sort(scores[g])[::-1] for g in open_groups if kept[g] < len(scores[g])}
        if not ordered:
            break
        best = max(sorted(ordered), key=lambda g: float(ordered[g][kept[g]]))
        wider = _rounded(kept[best] + 1, len(scores[best]), cuts.ranking.round_to, cuts.grains[best])
        trial = [wider if g == best else k for g, k in enumerate(kept)]
        if fits(trial):
            kept = trial
        else:
            open_groups.discard(best)
        open_groups &= set(ordered)
    return kept
