"""Which units of a network belong together: the channel that one layer makes, others scale and others read.

Read off torch-pruning's dependency graph (Fang et al., 2023, "DepGraph", https://arxiv.org/abs/2301.12900). It assumes
how channels pass through what it does not know; `searchkit.nn.surgery.prunable_groups` proves what it found.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch_pruning.pruner.function import BasePruningFunc

from searchkit.core.errors import BadInput
from searchkit.core.network import HasAuxLoss
from searchkit.nn.cuttable import channels, directions, is_depthwise
from searchkit.nn.parts import Structured, Surrogate, surrogates

_LAYERS = (_ConvNd, nn.Linear, nn.Embedding, nn.RNNBase)

BROKEN = (ArithmeticError, AssertionError, AttributeError, BadInput, LookupError, RuntimeError, TypeError, ValueError)
"""What a network raises if its shapes no longer fit, and torch-pruning at a structure that it does not know."""


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
    """Units that can only be cut everywhere at once: a channel, in each module that makes, scales or reads it."""

    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members[0].indices)


def follows(module: nn.Module) -> bool:
    """Whether its output channels are its input channels."""
    return module.coupled if isinstance(module, Structured) else not isinstance(module, _LAYERS)


class _Sides(BasePruningFunc):  # type: ignore[misc]
    """How torch-pruning sees a Structured or a recurrent module. It asks for sizes only; the cutting is ours."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise AssertionError("the graph is read, never cut")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise AssertionError("the graph is read, never cut")

    def get_out_channels(self, layer: nn.Module) -> int:
        return channels(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return channels(layer, "in")


class _Coupled(_Sides):
    prune_in_channels = _Sides.prune_out_channels  # one function for both sides is how torch-pruning is told of it


def traced_groups(
    module: nn.Module, example: Sequence[Tensor], protected: frozenset[str]
) -> tuple[list[Group], set[str]]:
    """Read the groups off torch-pruning's graph of a copy of the network.

    The copy is in training mode, so that heads that only training reads (a VAE's variance) are in it.

    Returns:
        The groups, and the names of the layers that torch-pruning does not understand.
    """
    net = copy.deepcopy(module).requires_grad_(True)
    names = {m: name for name, m in net.named_modules()}
    sides: dict[type[nn.Module], BasePruningFunc] = {
        type(m): _Coupled() if follows(m) else _Sides()
        for m in net.modules()
        if isinstance(m, (Structured, nn.RNNBase))
    }
    roots = (*_LAYERS, *(kind for kind, side in sides.items() if type(side) is _Sides))
    inside = {part for m in net.modules() if isinstance(m, Structured) for part in m.modules() if part is not m}
    layers = [m for m in names if not follows(m) and m not in inside]
    try:
        graph = _graph(net, example, sides)
        ignored = [m for m, name in names.items() if name in protected]
        all_found = list(graph.get_all_groups(ignored_layers=ignored, root_module_types=roots))
    except BROKEN:
        return [], {names[m] for m in layers}
    groups, lost = [], {names[m] for m in layers if m not in graph.module2node}
    for found in all_found:
        if any(isinstance(dep.target.module, tp.ops._OutputOp) and dep.target.module.shape for dep, _ in found):
            continue  # the network's output; a scalar penalty protects nothing
        root = found[0].dep.target.module
        try:
            group = _group(graph, _coarsest(graph, found), names)
        except BROKEN:
            lost.add(names[root])
            continue
        if len(group) > 1:
            groups.append(group)
        elif channels(root, "out") > 1:
            lost.add(names[root])  # channels that all hang together
    return groups, lost


def _graph(net: nn.Module, example: Sequence[Tensor], sides: dict[type[nn.Module], BasePruningFunc]) -> Any:
    graph = tp.DependencyGraph()
    with surrogates(), _torch_recurrent(net), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning says so if it guesses; what it guessed is proven
            graph.build_dependency(
                net, tuple(example), forward_fn=_forward(net), customized_pruners=sides, verbose=False
            )
    for node in graph.module2node.values():
        if node.type == tp.ops.OPTYPE.CONCAT and node.grad_fn._saved_dim == 2:
            # torch-pruning takes only axis 1 for the channels; in (B, L, D) they are axis 2. Without the node's record
            # it goes by the channel numbers, which tell the two cases apart.
            node.grad_fn = None
    return graph


@contextmanager
def _torch_recurrent(net: nn.Module) -> Iterator[None]:
    """Make each of torch's recurrent layers one step of the autograd graph, as Structured modules are.

    torch computes them by many steps, which torch-pruning takes for layers of the network.
    """
    layers = [m for m in net.modules() if isinstance(m, nn.RNNBase)]
    for layer in layers:
        layer.forward = functools.partial(_stand_in, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _stand_in(layer: nn.RNNBase, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """Zeros of the shapes that the layer gives, which depend on x alone.

    To torch-pruning the last states have the channels of the steps. That is right of what a head reads: one direction,
    or both side by side.
    """
    ways, width = directions(layer), channels(layer, "out")
    y: Tensor = Surrogate.apply(x, layer.weight_ih_l0, (*x.shape[:-1], width))  # type: ignore[no-untyped-call]
    rows = () if x.ndim == 2 else (x.shape[0 if layer.batch_first else 1],)
    shape = (layer.num_layers * ways, *rows, width // ways)
    state: Tensor = Surrogate.apply(y, None, shape)  # type: ignore[no-untyped-call]
    return y, (state, y.new_zeros(*shape[:-1], layer.hidden_size)) if isinstance(layer, nn.LSTM) else state


def _forward(net: nn.Module) -> Callable[[nn.Module, Any], list[Tensor]]:
    def forward(_: nn.Module, example: Sequence[Tensor]) -> list[Tensor]:
        for m in net.modules():
            m.training = not isinstance(m, _BatchNorm)
        y = net(*example)
        outputs = list(y) if isinstance(y, (tuple, list)) else [y]
        penalty = [net.aux_loss()] if isinstance(net, HasAuxLoss) else []
        # times 1: an output that comes straight from a Linear would not be known for an output
        return [o * 1.0 for o in (*outputs, *penalty) if o.grad_fn is not None]

    return forward


def _coarsest(graph: Any, found: Any) -> Any:
    """The same group seen from its member with the fewest indices, if that sees all of it.

    If a Linear feeds an image, sixteen of its rows are one channel; seen from the rows, only the first one's tie to it
    is kept.
    """
    root, coarse = found[0], min(found, key=lambda item: len(item.idxs))
    if len(coarse.idxs) == len(root.idxs) or coarse.dep.target.module is root.dep.target.module:
        return found
    seen = graph.get_pruning_group(coarse.dep.target.module, coarse.dep.handler, sorted(coarse.idxs))
    whole = any(i.dep.target is root.dep.target and set(i.idxs) == set(root.idxs) for i in seen)
    return seen if whole else found


def _group(graph: Any, found: Any, names: dict[nn.Module, str]) -> Group:
    """One of torch-pruning's groups in our terms. It gives, a module, pairs: index at the root and index there."""
    tied: list[tuple[int, int, list[tuple[int, int]], str, str]] = []
    for item in found:
        target, pairs = item.dep.target.module, list(zip(item.root_idxs, item.idxs, strict=True))
        if isinstance(target, nn.Parameter):
            axis = item.dep.target.pruning_dim
            tied.append((1, 1, pairs, graph._param_to_name[target], f"axis{axis}"))
        elif target in names:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            blocks = target.num_groups if isinstance(target, nn.GroupNorm) else 1
            if isinstance(target, _ConvNd) and not is_depthwise(target):
                blocks = target.groups
            if isinstance(target, nn.RNNBase) and side == "out":
                blocks = directions(target)
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
    of two groups of a grouped convolution or GroupNorm (two directions of a recurrent layer), `width` apart, or in the
    same `run` of channels in a row (a head).
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
