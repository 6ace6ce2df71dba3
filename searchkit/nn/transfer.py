"""Transfer learning: a network takes over the layers of another one that have its names and shapes.

A layer is taken as a whole or not at all: the weight of a convolution without its bias, or a mean without its variance,
would be a layer that nobody trained. What is taken can be held fixed at first, so that the new layers, which are random
still, do not spoil it (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def matching(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `weights` that belong to layers whose every tensor has its name and its shape there.

    Args:
        network: The one that is to take them over.
        weights: Of another network, by name.
    """
    found: dict[str, Tensor] = {}
    for prefix, module in network.named_modules():
        own = {
            f"{prefix}.{name}" if prefix else name: tensor
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        }
        own = {name: tensor for name, tensor in own.items() if name not in _unsaved(module, prefix)}
        if own and all(name in weights and weights[name].shape == tensor.shape for name, tensor in own.items()):
            found |= {name: weights[name] for name in own}
    return found


def _unsaved(module: nn.Module, prefix: str) -> set[str]:
    """The buffers that a state_dict leaves out."""
    return {f"{prefix}.{name}" if prefix else name for name in module._non_persistent_buffers_set}


def take_over_(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy into a network what `matching` finds."""
    network.load_state_dict(matching(network, weights), strict=False)


def n_taken(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many of the network's parameters `matching` finds, and how many it has."""
    found = matching(network, weights)
    counts = [(name in found, parameter.numel()) for name, parameter in network.named_parameters()]
    return sum(n for taken, n in counts if taken), sum(n for _, n in counts)


@contextmanager
def frozen(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters that `matching` finds are not trained.

    If those are all of them, the last layer is trained by itself: it belongs to the answers of another task.
    """
    found = matching(network, weights)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    fixed = [name for name in names if name in found]
    if names and len(fixed) == len(names):
        last = names[-1].rpartition(".")[0]
        fixed = [name for name in fixed if name.rpartition(".")[0] != last]
    parameters = dict(network.named_parameters())
    for name in fixed:
        parameters[name].requires_grad_(False)
    try:
        yield
    finally:
        for name in fixed:
            parameters[name].requires_grad_(True)
