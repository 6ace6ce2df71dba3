"""The state of a training as tensors: snapshots of networks and optimizers, and the one codec that stores them.

A rung's result, the state between two rungs, an artifact's weights and the best network so far all pass through here,
so that there is one answer to what a stored tensor is: detached, on the CPU, contiguous, and of a memory of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from searchkit.core.serialization import JSON, freeze
from searchkit.core.training import TrainState

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

WEIGHTS, OPTIMIZER = "weights.", "optimizer."


def snapshot(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Copy tensors so that nothing that happens to the originals changes them.

    Args:
        tensors: By name, such as a network's `state_dict()`.
        prefix: Is put before each name.

    Returns:
        Detached copies on the CPU, contiguous and sharing no memory, which safetensors requires.
    """
    return {prefix + name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def capture(network: nn.Module, optimizer: Optimizer, prefix: str = "") -> dict[str, Tensor]:
    """Copy a network's weights and its optimizer's moments.

    Args:
        network: Any module.
        optimizer: The optimizer of the module's parameters.
        prefix: Is put before each name: a critic that learns beside the network has one of its own.

    Returns:
        "weights.<name>" and "optimizer.<index>.<slot>", each after the prefix.
    """
    found = snapshot(network.state_dict(), prefix + WEIGHTS)
    for index, slots in optimizer.state_dict()["state"].items():
        moments = {name: value for name, value in slots.items() if hasattr(value, "detach")}
        found |= snapshot(moments, f"{prefix}{OPTIMIZER}{index}.")
    return found


def restore_(network: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put back in place what `capture` copied, under the same prefix."""
    import torch

    known = with_prefix(tensors, prefix)
    network.load_state_dict(with_prefix(known, WEIGHTS))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in with_prefix(known, OPTIMIZER).items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value.clone()
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    # The fused kernel walks memory: a moment must lie there as its parameter does, or channels_last scrambles them.
    for parameter, loaded in optimizer.state.items():
        for key, value in loaded.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                loaded[key] = torch.empty_like(parameter).copy_(value)


def encode_state(state: TrainState) -> bytes:
    """Write a state as one safetensors buffer, its epoch and its numbers in the header."""
    from safetensors.torch import save

    header = {"epoch": str(state.epoch), "numbers": json.dumps(freeze(state.numbers), ensure_ascii=False)}
    return save(snapshot(state.tensors), metadata=header)


def decode_state(data: bytes) -> TrainState:
    """Read what `encode_state` wrote; b"" is the state before any training.

    Raises:
        SafetensorError: The buffer is damaged.
        ValueError: Its header is.
    """
    if not data:
        return TrainState()
    from safetensors.torch import load

    tensors = load(data)  # first: it checks that the buffer is whole
    length = int.from_bytes(data[:8], "little")  # the format: header length, JSON header, tensors
    header: dict[str, JSON] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if not {"epoch", "numbers"} <= header.keys():
        raise ValueError("its header lacks the epoch or the numbers")
    return TrainState(int(header["epoch"]), tensors, json.loads(header["numbers"]))
