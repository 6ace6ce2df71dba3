"""How the weights of one network lie in those of another: the one idea of a supernet and of children that inherit.

Two networks of one kind differ in widths, depths and kernels alone. A tensor of the smaller is then a slice of the
larger's: its first channels (or its last), the middle of its kernel. A supernet is the largest network, and another
network runs on slices of its tensors, through which gradients flow (slimmable networks: Yu et al. 2019,
arXiv:1812.08928; once-for-all: Cai et al. 2020, arXiv:1908.09791). A child starts from the slices that it has in
common with its parent, and what is new in it starts such that it computes what the parent did (Net2Net: Chen et al.
2016, arXiv:1511.05641; network morphism: Wei et al. 2016, arXiv:1603.01670).

Which module of one is which of the other is told by the family, see `searchkit.core.space.Sharing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call

from searchkit.core.network import HasBranches
from searchkit.core.space import Sharing
from searchkit.nn.blocks.layers import WEIGHTED, SqueezeExcite
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.parts import Structured

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
STATISTICS = ("running_mean", "running_var")

Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """A slice of a tensor that is one of another network's.

    Attributes:
        source: Name of the other network's tensor.
        here: Slices of this network's tensor.
        there: Slices of the other's, of the same shape.
    """

    source: str
    here: Slices
    there: Slices

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(part.stop - part.start for part in self.here)


Copies = Mapping[str, tuple[Copy, ...]]
"""By the name of each of a network's tensors, the slices that it has in common with the other network; () if none."""


def copies(net: nn.Module, other: nn.Module, sharing: Sharing) -> Copies:
    """Find the slices that the parameters and running statistics of two networks have in common.

    Args:
        net: The network.
        other: The other one; its values are not looked at.
        sharing: What the family says of the two.
    """
    theirs = dict(_tensors(other))
    runs_here, runs_there = _runs(net), _runs(other)
    # A mixed convolution's tensors are divided among kernel sizes, so that it is matched as one.
    mixed = [name for name, module in net.named_modules() if isinstance(module, MixedDepthwise)]
    found: dict[str, tuple[Copy, ...]] = {}
    for name, tensor in _tensors(net):
        if any(name.startswith(f"{prefix}.") for prefix in mixed):
            continue
        source = _renamed(name, sharing.names)
        if source not in theirs or theirs[source].ndim != tensor.ndim:
            found[name] = ()
            continue
        kernel = isinstance(net.get_submodule(name.rpartition(".")[0]), CONVOLUTIONS)
        joined = next((n for prefix, n in sharing.joined.items() if name.startswith(f"{prefix}.")), 1)
        spans = []
        for axis, (size, size_there) in enumerate(zip(tensor.shape, theirs[source].shape, strict=True)):
            if kernel and axis >= 2:
                spans.append(_middle(size, size_there))
                continue
            units = joined if axis == 1 else 1
            run, run_there = runs_here.get((name, axis), size // units), runs_there.get((source, axis))
            run_there = size_there // units if run_there is None else run_there
            spans.append(_units(size, size_there, run, run_there, last=sharing.last))
        found[name] = tuple(
            Copy(source, tuple(here for here, _ in pairs), tuple(there for _, there in pairs))
            for pairs in product(*spans)
        )
    for name in mixed:
        source = _renamed(name, sharing.names)
        found |= _mixed_copies(net, other, name, source, last=sharing.last)
    return found


def same_name_and_shape(net: nn.Module, other: nn.Module) -> Copies:
    """The tensors that have the same name and shape in both, whole: for networks of different kinds."""
    theirs = dict(_tensors(other))
    found: dict[str, tuple[Copy, ...]] = {}
    for name, tensor in _tensors(net):
        whole = tuple(slice(0, size) for size in tensor.shape)
        found[name] = (Copy(name, whole, whole),) if name in theirs and theirs[name].shape == tensor.shape else ()
    return found


def is_inside(net: nn.Module, found: Copies) -> bool:
    """Whether all weights of a network are another's."""
    return all(sum(copy.size for copy in found[name]) == tensor.numel() for name, tensor in net.named_parameters())


def share_inside(net: nn.Module, found: Copies) -> float:
    """Which part of a network's weights another network has too, 0 to 1."""
    sizes = [(sum(copy.size for copy in found[name]), p.numel()) for name, p in net.named_parameters()]
    return sum(size for size, _ in sizes) / max(1, sum(of for _, of in sizes))


class Shared(nn.Module):
    """A network that runs on slices of another's parameters, and teaches those.

    Args:
        net: A network that is inside the other; its own parameters are not used.
        other: The other network, whose parameters get the gradients.
        found: See `copies`.
    """

    def __init__(self, net: nn.Module, other: nn.Module, found: Copies) -> None:
        super().__init__()
        self.net = net
        self._other = (other,)  # in a tuple: it is no part of this network
        self._found = found

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the network. Its batch norms use the batch in training, and keep running statistics of their own."""
        tensors = dict(self._other[0].named_parameters())
        views = {name: _view(p.shape, self._found[name], tensors) for name, p in self.net.named_parameters()}
        out: Tensor = functional_call(self.net, views, inputs)
        return out


@torch.no_grad()
def take_(net: nn.Module, other: nn.Module, found: Copies) -> None:
    """Copy into a network what another has of it, in place; the rest stays as it is."""
    tensors, theirs = dict(_tensors(net)), dict(_tensors(other))
    for name, parts in found.items():
        for copy in parts:
            tensors[name][copy.here] = theirs[copy.source][copy.there]


@torch.no_grad()
def inherit_(net: nn.Module, parent: nn.Module, sharing: Sharing) -> float:
    """Start a network from the weights of its parent, in place.

    If the child is nowhere smaller, it computes what the parent does: wider, for an old channel does not see a new one;
    deeper, for a new block passes its input on; with larger kernels, for the new ring is 0. It is not the same where
    layer norm sees more channels, or the activation before a new block without a shortcut is not ReLU. New channels
    keep their random weights from the old ones, or they would never be of use.

    Args:
        net: The child, with its random weights.
        parent: The trained network.
        sharing: What the family says of the child and the parent.

    Returns:
        The part of the child's weights that came from the parent, 0 to 1.
    """
    found = copies(net, parent, sharing)
    for name, tensor in net.named_parameters():
        owner = net.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, (nn.Linear, *CONVOLUTIONS)) and tensor.ndim > 1:
            for copy in found[name]:
                tensor[copy.here[0]] = 0.0
    take_(net, parent, found)
    for name, source in sharing.names.items():
        if source is None and name in dict(net.named_modules()):
            identity_(net.get_submodule(name))
    return share_inside(net, found)


@torch.no_grad()
def identity_(block: nn.Module) -> None:
    """Make a block pass its input on, in place: one with branches, or one of convolutions whose input is not negative.

    Args:
        block: Has as many channels before as after it, and no stride.
    """
    if isinstance(block, HasBranches):
        for branch in block.branches():
            layers = [m for m in branch.modules() if isinstance(m, (*NORMS, *WEIGHTED))]
            last = ([m for m in layers if isinstance(m, NORMS)] or layers)[-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        return
    for part in [block] if isinstance(block, SqueezeExcite) else block.children():
        if isinstance(part, SqueezeExcite):
            nn.init.zeros_(part.expand.weight)
            assert part.expand.bias is not None
            nn.init.constant_(part.expand.bias, 3.0)  # where the gate, a hard sigmoid, is 1
        elif isinstance(part, CONVOLUTIONS):
            nn.init.dirac_(part.weight, part.groups)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, NORMS):
            part.reset_running_stats()
            nn.init.constant_(part.weight, math.sqrt(1.0 + part.eps))
            nn.init.zeros_(part.bias)
        else:
            identity_(part)


# ── which slices ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the running statistics of batch norms. Other buffers are computed, not learned."""
    yield from net.named_parameters()
    for name, buffer in net.named_buffers():
        if name.rpartition(".")[2] in STATISTICS:
            yield name, buffer


def _renamed(name: str, names: Mapping[str, str | None]) -> str:
    """The other network's name of a module or tensor; "" if there is none."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in names:
            other = names[prefix]
            return "" if other is None else ".".join([other, *parts[end:]])
    return name


def _runs(net: nn.Module) -> dict[tuple[str, int], int]:
    """The length of a unit's run of indices, by the tensor's name and axis, where it is not 1: an attention head's."""
    names = {id(module): name for name, module in net.named_modules()}
    found = {}
    for module in net.modules():
        if not isinstance(module, Structured) or module.coupled:
            continue
        for part in module.parts("inner"):
            if part.run > 1:
                found[(f"{names[id(part.owner)]}.{part.name}", part.axis)] = part.run
    return found


def _units(size: int, size_there: int, run: int, run_there: int, *, last: bool) -> list[tuple[slice, slice]]:
    """Slices of an axis that is made of units of `run` indices each; the whole axis is one unit of channels."""
    n, common = min(size // run, size_there // run_there), min(run, run_there)
    skip, skip_there = (run - common, run_there - common) if last else (0, 0)
    starts = [(u * run + skip, u * run_there + skip_there) for u in range(n)]
    return [(slice(here, here + common), slice(there, there + common)) for here, there in starts]


def _middle(size: int, size_there: int) -> list[tuple[slice, slice]]:
    common = min(size, size_there)
    first, first_there = (size - common) // 2, (size_there - common) // 2
    return [(slice(first, first + common), slice(first_there, first_there + common))]


def _mixed_copies(
    net: nn.Module, other: nn.Module, name: str, source: str, *, last: bool
) -> dict[str, tuple[Copy, ...]]:
    """Of a mixed convolution: a channel has the place of the other's channel, whatever the sizes of their kernels."""
    here, there = net.get_submodule(name), other.get_submodule(source) if source else None
    assert isinstance(here, MixedDepthwise)
    found: dict[str, list[Copy]] = {f"{name}.convs.{i}.weight": [] for i in range(len(here.convs))}
    if isinstance(there, MixedDepthwise):
        shift = there.in_channels - here.in_channels if last else 0
        for i, (start, stop, kernel) in enumerate(_bounds(here)):
            for j, (start_there, stop_there, kernel_there) in enumerate(_bounds(there)):
                first, end = max(start, start_there - shift), min(stop, stop_there - shift)
                if first < end:
                    (middle,) = _middle(kernel, kernel_there)
                    found[f"{name}.convs.{i}.weight"].append(
                        Copy(
                            f"{source}.convs.{j}.weight",
                            (slice(first - start, end - start), slice(0, 1), middle[0], middle[0]),
                            (
                                slice(first + shift - start_there, end + shift - start_there),
                                slice(0, 1),
                                middle[1],
                                middle[1],
                            ),
                        )
                    )
    return {tensor: tuple(parts) for tensor, parts in found.items()}


def _bounds(mixed: MixedDepthwise) -> list[tuple[int, int, int]]:
    """The first channel of each kernel size, the one after its last, and the size."""
    found, first = [], 0
    for conv, n in mixed.runs():
        found.append((first, first + n, conv.kernel_size[0]))
        first += n
    return found


def _view(shape: torch.Size, parts: tuple[Copy, ...], tensors: Mapping[str, Tensor]) -> Tensor:
    if len(parts) == 1:
        return tensors[parts[0].source][parts[0].there]
    out = tensors[parts[0].source].new_zeros(shape)
    for copy in parts:
        out[copy.here] = tensors[copy.source][copy.there]
    return out
