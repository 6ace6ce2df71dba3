"""Structural edits as plain JSON: record which units a pruned network lost, and remove them again.

`{"cut": "blocks.0.conv1", "side": "out", "drop": [3, 5]}` removes output channels 3 and 5. To restore a pruned network,
build it, replay the edits and load the weights; no tracing and no pickle. `prunable_groups` finds which cuts belong
together with torch-pruning's dependency graph (DepGraph: Fang et al. 2023, arXiv:2301.12900). This module does not
choose what to cut; `searchkit.stages.prune` does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch_pruning.pruner.function import BasePruningFunc

from searchkit.core.errors import BadInput
from searchkit.core.network import HasAuxLoss
from searchkit.core.serialization import JSON
from searchkit.nn.parts import Part, Structured, surrogates

_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm)


# ── The units of a module ────────────────────────────────────────────────────────────────────────────────────────────


def parts(module: nn.Module, side: str) -> tuple[Part, ...]:
    """Return the tensor slices that belong to the units of a side ("in", "out", "inner"); empty if they own none.

    Norms, PReLU and depthwise convolutions are coupled: "in" and "out" are the same units.

    Raises:
        BadInput: If the module is neither a Structured nor a Linear, Embedding, convolution, norm or PReLU.
    """
    if isinstance(module, Structured):
        return module.parts(side)  # type: ignore[arg-type]
    if isinstance(module, _ConvNd):
        if side == "in" and not _depthwise(module):
            return _own(module, ("weight",), axis=0 if isinstance(module, _ConvTransposeNd) else 1)
        across = 1 if isinstance(module, _ConvTransposeNd) and not _depthwise(module) else 0
        return _own(module, ("weight",), axis=across) + _own(module, ("bias",), axis=0)
    if isinstance(module, nn.Linear):
        return _own(module, ("weight",), axis=1) if side == "in" else _own(module, ("weight", "bias"), axis=0)
    if isinstance(module, nn.Embedding):
        return _own(module, ("weight",), axis=1)
    if isinstance(module, _NORMS):
        return _own(module, ("weight", "bias", "running_mean", "running_var"), axis=0)
    if isinstance(module, nn.PReLU):
        return _own(module, ("weight",), axis=0) if module.num_parameters > 1 else ()
    raise BadInput(f"A {type(module).__name__} cannot be cut; write it as a searchkit.nn.parts.Structured.")


def _own(module: nn.Module, names: Iterable[str], *, axis: int) -> tuple[Part, ...]:
    tensors = module._parameters | module._buffers
    return tuple(Part(module, name, axis) for name in names if tensors.get(name) is not None)


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels == module.in_channels


def _within(module: nn.Module, side: str, drop: Sequence[int]) -> list[int]:
    """The units to drop along the axis that a grouped convolution groups.

    The tensor stores only the channels of one group there. The same positions are cut in every group (`_units` ties
    them together), so the first group says which.
    """
    grouped = "out" if isinstance(module, _ConvTransposeNd) else "in"
    if not isinstance(module, _ConvNd) or _depthwise(module) or module.groups == 1 or side != grouped:
        return sorted(set(drop))
    width = (module.out_channels if grouped == "out" else module.in_channels) // module.groups
    return sorted({u for u in drop if u < width})


def channels(module: nn.Module, side: str) -> int:
    """Return the current number of units of a side; raise BadInput if the module's type is unknown."""
    if isinstance(module, Structured):
        return module.units(side)  # type: ignore[arg-type]
    if isinstance(module, _ConvNd):
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        return module.num_features
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    raise BadInput(f"A {type(module).__name__} cannot be cut; write it as a searchkit.nn.parts.Structured.")


def _cut_(module: nn.Module, side: str, drop: Sequence[int]) -> None:
    if isinstance(module, Structured):
        return module.cut_(side, drop)  # type: ignore[arg-type]
    left, depthwise = channels(module, side) - len(set(drop)), _depthwise(module)
    for part in parts(module, side):
        gone = set(drop) if part.name == "bias" else set(_within(module, side, drop))
        part.keep_([u for u in range(part.units()) if u not in gone])
    if isinstance(module, _ConvNd):
        if depthwise:
            module.in_channels = module.out_channels = module.groups = left
        elif side == "in":
            module.in_channels = left
        else:
            module.out_channels = left
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (left,)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = left
    elif isinstance(module, (_BatchNorm, _InstanceNorm)):
        module.num_features = left
    elif isinstance(module, nn.PReLU):
        module.num_parameters = left
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = left


# ── Edits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def apply_edits_(module: nn.Module, edits: Iterable[JSON]) -> None:
    """Replay edits `{"cut": module name, "side": side, "drop": indices}` in order, in place.

    Raises:
        BadInput: If an edit does not fit the module.
    """
    for edit in edits:
        target, side, drop = _target(module, edit)
        if isinstance(target, Part):
            target.keep_([u for u in range(target.units()) if u not in set(drop)])
        else:
            _cut_(target, side, drop)


def mask_edits_(module: nn.Module, edits: Iterable[JSON]) -> None:
    """Zero the units that the edits of one round of pruning would cut, in place.

    The network then computes what the pruned one does: rows, biases, columns and scales become 0. This is exact unless
    a LayerNorm or GroupNorm averages over the removed units. All edits use the indices of `module` as it is now.
    """
    for edit in edits:
        target, side, drop = _target(module, edit)
        if isinstance(target, Part):
            target.zero_(drop)
            continue
        for part in parts(target, side):
            part.zero_(drop if part.name == "bias" else _within(target, side, drop))


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


@dataclass(frozen=True, slots=True)
class Member:
    """One side of one module in a group.

    Attributes:
        name: Name of the module, or of a parameter that belongs to no layer.
        side: "in", "out", "inner", or "axis<k>" for axis k of such a parameter.
        indices: Indices of each unit of the group in this side.
    """

    name: str
    side: str
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Units that can only be cut everywhere at once: a channel in each module that makes, scales or reads it."""

    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members[0].indices)


def prunable_groups(
    module: nn.Module, example: Sequence[Tensor], protected: Iterable[str] = ()
) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Find the groups of a network that can be cut.

    A group is kept only if the network still runs, with the same output shapes, after one of its units is cut. Groups
    that tracing got wrong are left whole and named.

    Args:
        module: The network.
        example: Inputs with at least 2 rows.
        protected: Names of modules whose output must not be cut. The network's outputs are never cut.

    Returns:
        The groups, and the names of the first module of each group that was left alone.
    """
    shapes = [tuple(y.shape) for y in _outputs(copy.deepcopy(module).eval(), example)]
    groups, refused = [], []
    for group in (*_traced(module, example, frozenset(protected)), *_inner(module)):
        trial = copy.deepcopy(module).eval()
        try:
            apply_edits_(trial, drops([(group, [0])]))
            kept = [tuple(y.shape) for y in _outputs(trial, example)] == shapes
        except (RuntimeError, ValueError, IndexError, BadInput):
            kept = False  # shapes no longer fit: tracing missed a dependency
        if kept:
            groups.append(group)
        else:
            refused.append(group.members[0].name)
    return tuple(groups), tuple(refused)


def drops(chosen: Iterable[tuple[Group, Sequence[int]]]) -> list[JSON]:
    """Return the edits that cut units of groups: one edit per side of a module, in the indices before any cut."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group, unit_numbers in chosen:
        for member in group.members:
            lost = gone.setdefault((member.name, member.side), set())
            lost.update(i for u in unit_numbers for i in member.indices[u])
    return [{"cut": name, "side": side, "drop": sorted(lost)} for (name, side), lost in gone.items() if lost]


def _outputs(module: nn.Module, example: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        y = module(*example)
    return list(y) if isinstance(y, (tuple, list)) else [y]


def _inner(module: nn.Module) -> list[Group]:
    return [
        Group((Member(name, "inner", tuple((u,) for u in range(m.n_inner))),))
        for name, m in module.named_modules()
        if isinstance(m, Structured) and m.n_inner > 1
    ]


class _Sides(BasePruningFunc):  # type: ignore[misc]
    """A Structured module as torch-pruning sees it; it asks for sizes only, and cutting is done here."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise AssertionError("the graph is read, never cut")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise AssertionError("the graph is read, never cut")

    def get_out_channels(self, layer: Structured) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: Structured) -> int:
        return layer.in_channels


class _Coupled(_Sides):
    # torch-pruning recognizes a coupled layer by one function object for both sides.
    prune_in_channels = _Sides.prune_out_channels


def _traced(module: nn.Module, example: Sequence[Tensor], protected: frozenset[str]) -> list[Group]:
    """The groups in torch-pruning's graph of a copy.

    In training mode, so that heads that only training uses (a VAE's variance) are included.
    """
    net = copy.deepcopy(module).requires_grad_(True)
    names = {m: name for name, m in net.named_modules()}
    structured = {type(m): _Coupled() if m.coupled else _Sides() for m in net.modules() if isinstance(m, Structured)}
    graph = tp.DependencyGraph()
    # fork_rng: dropout draws random numbers, and tracing must not change those of the training that follows.
    with surrogates(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        graph.build_dependency(
            net, tuple(example), forward_fn=_forward(net), customized_pruners=structured, verbose=False
        )
    for node in graph.module2node.values():
        if node.type == tp.ops.OPTYPE.CONCAT and node.grad_fn._saved_dim == 2:
            # torch-pruning 1.6 expects channels on axis 1; in (B, L, D) they are on axis 2. Without the node's record
            # it compares channel counts instead, which distinguishes the two cases.
            node.grad_fn = None
    roots = (_ConvNd, nn.Linear, nn.Embedding, *(kind for kind in structured if not kind.coupled))
    ignored = [m for m, name in names.items() if name in protected]
    groups = []
    for found in graph.get_all_groups(ignored_layers=ignored, root_module_types=roots):
        if any(isinstance(dep.target.module, tp.ops._OutputOp) and dep.target.module.shape for dep, _ in found):
            continue  # the network's output must keep its size; an auxiliary loss, a scalar, protects nothing
        group = _group(graph, _coarsest(graph, found), names)
        if len(group) > 1:
            groups.append(group)
    return groups


def _forward(net: nn.Module) -> Callable[[nn.Module, Any], list[Tensor]]:
    def forward(_: nn.Module, example: Sequence[Tensor]) -> list[Tensor]:
        for m in net.modules():
            # Batch norm in training mode would refuse a batch with one value per channel.
            m.training = not isinstance(m, _BatchNorm)
        y = net(*example)
        outputs = list(y) if isinstance(y, (tuple, list)) else [y]
        penalty = [net.aux_loss()] if isinstance(net, HasAuxLoss) else []
        # Times 1: torch-pruning does not recognize an output that comes directly from a Linear.
        return [o * 1.0 for o in (*outputs, *penalty) if o.grad_fn is not None]

    return forward


def _coarsest(graph: Any, found: Any) -> Any:
    """The same group seen from its member with the fewest indices, if that sees all of it.

    If a Linear feeds an image, sixteen of its rows are one channel. Seen from the rows, torch-pruning keeps only the
    tie of the first row to it.
    """
    root, coarse = found[0], min(found, key=lambda item: len(item.idxs))
    if len(coarse.idxs) == len(root.idxs) or coarse.dep.target.module is root.dep.target.module:
        return found
    seen = graph.get_pruning_group(coarse.dep.target.module, coarse.dep.handler, sorted(coarse.idxs))
    whole = any(i.dep.target is root.dep.target and set(i.idxs) == set(root.idxs) for i in seen)
    return seen if whole else found


def _group(graph: Any, found: Any, names: dict[nn.Module, str]) -> Group:
    """Convert one of torch-pruning's groups, which lists pairs (index at the root, index here) per module."""
    tied: list[tuple[int, int, list[tuple[int, int]], str, str]] = []
    for item in found:
        target, pairs = item.dep.target.module, list(zip(item.root_idxs, item.idxs, strict=True))
        if isinstance(target, nn.Parameter):
            axis = item.dep.target.pruning_dim
            tied.append((1, 1, pairs, graph._param_to_name[target], f"axis{axis}"))
        elif target in names:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            blocks = target.num_groups if isinstance(target, nn.GroupNorm) else 1
            if isinstance(target, _ConvNd) and not _depthwise(target):
                blocks = target.groups
            run = target.out_run if isinstance(target, Structured) and side == "out" else 1
            tied.append((channels(target, side) // blocks, run, pairs, names[target], side))
    size = max(root for _, _, pairs, _, _ in tied for root, _ in pairs) + 1
    unit_of = _units(size, [(width, run, pairs) for width, run, pairs, _, _ in tied])
    n_units = max(unit_of) + 1
    members: dict[tuple[str, str], list[set[int]]] = {}
    for _, _, pairs, name, side in tied:
        indices = members.setdefault((name, side), [set() for _ in range(n_units)])
        for root, index in pairs:
            indices[unit_of[root]].add(index)
    return Group(tuple(Member(n, s, tuple(tuple(sorted(u)) for u in ix)) for (n, s), ix in members.items()))


def _units(size: int, tied: Iterable[tuple[int, int, Sequence[tuple[int, int]]]]) -> list[int]:
    """The unit of each root index.

    Two root indices are one unit if they meet in a module: at the same index (a flattened channel), at the same place
    of two groups of a grouped convolution or GroupNorm, `width` apart, or in the same `run` of consecutive channels (a
    head).
    """
    parent = list(range(size))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for width, run, pairs in tied:
        first: dict[int, int] = {}
        for root, index in pairs:
            place = (index % width if width > 1 else index) // run
            parent[find(root)] = find(first.setdefault(place, root))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(find(i), len(numbers)) for i in range(size)]
