"""Structural edits as plain JSON: record which units a pruned network lost, and remove them again.

`{"cut": "blocks.0.conv1", "side": "out", "drop": [3, 5]}` removes output channels 3 and 5. A pruned network is restored
by build, replay, load: no tracing, no pickle. Which cuts belong together comes from `searchkit.nn.dependencies`;
that they do is proven here (`prunable_groups`). This module is mechanism: it does not choose what to cut.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.errors import BadInput
from searchkit.core.random_state import seeded
from searchkit.core.serialization import JSON
from searchkit.nn.cuttable import channels, cut_, parts, within
from searchkit.nn.dependencies import BROKEN, Group, Member, follows, traced_groups
from searchkit.nn.parts import Part, Structured

EXACT = 1e-5
"""How far the answers of a cut network may be from those of the masked one, in parts of the largest (at least 1)."""


# ── Edits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def apply_edits_(module: nn.Module, edits: Iterable[JSON]) -> None:
    """Replay edits in order, in place. Parameters that several modules share stay shared.

    Raises:
        BadInput: An edit does not fit the module, or the edits cut a shared parameter differently in two modules.
    """
    shared = shared_parameters(module)
    for edit in edits:
        target, side, drop = _target(module, edit)
        if isinstance(target, Part):
            target.keep_([u for u in range(target.units()) if u not in set(drop)])
        else:
            cut_(target, side, drop)
    for owners in shared:
        (owner, name), *others = owners
        first = owner.get_parameter(name)
        for other, its_name in others:
            if not torch.equal(other.get_parameter(its_name), first):
                raise BadInput(f"The edits cut a parameter '{name}' that {len(owners)} modules share not alike in all.")
            setattr(other, its_name, first)


def shared_parameters(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """The parameters that stand in several modules (tied weights), each with its owners and its name in them."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((owner, name))
    return [found for found in owners.values() if len(found) > 1]


def mask_edits_(module: nn.Module, edits: Iterable[JSON]) -> None:
    """Zero the units that the edits would cut, in place.

    The network then computes what the cut one does: rows, biases, columns and scales become 0, and a LayerNorm or
    GroupNorm averages over the units that stay. All edits use the indices of `module` as it is now, those of one round
    of pruning; mask a network once.
    """
    for edit in edits:
        target, side, drop = _target(module, edit)
        if isinstance(target, Part):
            target.zero_(drop)
            continue
        if isinstance(target, Structured):
            target.mask_(side, drop)  # type: ignore[arg-type]
            continue
        for part in parts(target, side):
            part.zero_(drop if part.name == "bias" else within(target, side, drop))
        if isinstance(target, (nn.LayerNorm, nn.GroupNorm)):
            keep = torch.tensor([u for u in range(channels(target, side)) if u not in set(drop)])
            target.register_forward_hook(functools.partial(_norm_of_some, keep=keep))


def _norm_of_some(norm: nn.LayerNorm | nn.GroupNorm, args: tuple[Tensor], out: Tensor, *, keep: Tensor) -> Tensor:
    axis = 1 if isinstance(norm, nn.GroupNorm) else -1
    x = args[0].index_select(axis, keep)
    scale, shift = (None if w is None else w.index_select(0, keep) for w in (norm.weight, norm.bias))
    if isinstance(norm, nn.GroupNorm):
        y = F.group_norm(x, norm.num_groups, scale, shift, norm.eps)
    else:
        y = F.layer_norm(x, (len(keep),), scale, shift, norm.eps)
    return torch.zeros_like(out).index_copy(axis, keep, y)


def _target(module: nn.Module, edit: JSON) -> tuple[nn.Module | Part, str, list[int]]:
    try:
        path, side, drop = str(edit["cut"]), str(edit["side"]), [int(u) for u in edit["drop"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"An edit has 'cut', 'side' and 'drop', a list of indices; this one is {edit}.") from error
    try:
        target = _parameter(module, path, int(side[4:])) if side.startswith("axis") else module.get_submodule(path)
    except AttributeError as error:
        raise BadInput(f"The edit cuts '{path}', which this network does not have.") from error
    have = target.units() if isinstance(target, Part) else channels(target, side)
    if not all(0 <= u < have for u in drop) or len(set(drop)) >= have:
        raise BadInput(f"The edit drops units {drop} of '{path}' ({side}), which has {have} and must keep one.")
    return target, side, drop


def _parameter(module: nn.Module, path: str, axis: int) -> Part:
    """A parameter that belongs to no layer, such as a class token or a layer scale."""
    owner, _, name = path.rpartition(".")
    part = Part(module.get_submodule(owner), name, axis)
    part.tensor()
    return part


# ── Which cuts belong together ───────────────────────────────────────────────────────────────────────────────────────


def prunable_groups(
    module: nn.Module, example: Sequence[Tensor], protected: Iterable[str] = ()
) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Find what can be cut, and prove it.

    A group is kept only if the network with some of its units cut answers as the network with them masked (`gap`), with
    perturbed weights: what tracing got wrong is left whole and named, not broken.

    Args:
        module: The network.
        example: Its inputs, at least 2 rows.
        protected: Names of modules whose output is not to be cut; the network's outputs never are.

    Returns:
        The groups, and the names of the layers whose output could not be followed and stays whole.
    """
    traced, lost = traced_groups(module, example, frozenset(protected))
    groups = _proven([*traced, *_inner(module)], module, example)
    lost |= {m.name for group in traced if group not in groups for m in group.members if m.side == "out"}
    lost |= {group.members[0].name for group in _inner(module) if group not in groups}
    # a layer may be in a group that was not kept and in another that was, and a norm only follows the layer before it
    lost -= {m.name for group in groups for m in group.members if m.side != "in"}
    return tuple(groups), tuple(name for name, m in module.named_modules() if name in lost and not follows(m))


def _proven(candidates: list[Group], module: nn.Module, example: Sequence[Tensor]) -> list[Group]:
    """Those of the groups that can be cut exactly. All are tried together first, and halved only if that fails."""
    probe, random = copy.deepcopy(module).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in probe.parameters():  # a weight that starts at 0 would hide what is wrong with its inputs
            if p.ndim and p.is_floating_point():
                size = 0.1 if p.ndim == 1 else 0.5 * math.sqrt(p.shape[0] / max(1, p.numel()))
                p.add_(size * torch.randn(p.shape, generator=random).to(p))
    orders = {g: torch.randperm(len(g), generator=random).tolist() for g in candidates}

    def holds(groups: Sequence[Group]) -> bool:
        """With a half of the units cut, and with a third: one choice can come out even by chance."""
        chosen = [[(g, orders[g][: max(1, len(g) // n)]) for g in groups] for n in (2, 3)]
        return all(gap(probe, example, drops(each)) <= EXACT for each in chosen)

    def kept(groups: list[Group]) -> list[Group]:
        if not groups or holds(groups):
            return groups
        if len(groups) == 1:
            return []
        middle = len(groups) // 2
        found, more = kept(groups[:middle]), kept(groups[middle:])
        if len(found) + len(more) < len(groups) and holds([*found, *more]):
            return [*found, *more]
        for group in more:  # each holds by itself, and not with all others
            found = [*found, group] if holds([*found, group]) else found
        return found

    if shared_parameters(module):  # two groups that cut one parameter alike by chance would hold together
        candidates = [group for group in candidates if holds([group])]
    return kept(candidates)


def gap(module: nn.Module, example: Sequence[Tensor], edits: Sequence[JSON]) -> float:
    """How far the answers of the network with the edits made are from those with the units masked, in evaluation mode.

    Returns:
        The largest difference, in parts of the largest answer (at least 1); infinite if the cut network does not run.
    """
    difference = _gap(copy.deepcopy(module).eval(), example, edits)
    if EXACT < difference < math.inf:  # a deep network rounds: ask again in twice the digits
        wide = [x.double() if x.is_floating_point() else x for x in example]
        difference = min(difference, _gap(copy.deepcopy(module).eval().double(), wide, edits))
    return difference


def _gap(net: nn.Module, example: Sequence[Tensor], edits: Sequence[JSON]) -> float:
    cut, worst = copy.deepcopy(net), 0.0
    try:
        mask_edits_(net, edits)
        apply_edits_(cut, edits)
        for masked, y in zip(_outputs(net, example), _outputs(cut, example), strict=True):
            if masked.shape != y.shape:
                return math.inf
            scale = max(1.0, float(masked.abs().max()))
            worst = max(worst, float((y.double() - masked.double()).abs().max()) / scale)
    except BROKEN:
        return math.inf
    return worst if math.isfinite(worst) else math.inf


def drops(chosen: Iterable[tuple[Group, Sequence[int]]]) -> list[JSON]:
    """Return the edits that cut units of groups: one edit per side of a module, in the indices before any cut."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group, unit_numbers in chosen:
        for member in group.members:
            lost = gone.setdefault((member.name, member.side), set())
            lost.update(i for u in unit_numbers for i in member.indices[u])
    return [{"cut": name, "side": side, "drop": sorted(lost)} for (name, side), lost in gone.items() if lost]


def _outputs(module: nn.Module, example: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), seeded(0):
        y = module(*example)
    return list(y) if isinstance(y, (tuple, list)) else [y]


def _inner(module: nn.Module) -> list[Group]:
    return [
        Group((Member(name, "inner", tuple((u,) for u in range(m.n_inner))),))
        for name, m in module.named_modules()
        if isinstance(m, Structured) and m.n_inner > 1
    ]
