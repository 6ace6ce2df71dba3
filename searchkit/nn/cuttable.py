"""The units of a module: how many each of its sides has, which slices of which tensors they own, and how to cut them.

This is the table of torch's own modules; a `Structured` module brings its own. Edits are lists of such cuts:
`searchkit.nn.surgery`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from searchkit.core.errors import BadInput
from searchkit.nn.parts import Part, Structured

_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm)


def parts(module: nn.Module, side: str) -> tuple[Part, ...]:
    """The tensor slices that the units of a side ("in", "out", "inner") of a module own; () if it owns none.

    Norms, PReLU and depthwise convolutions are coupled: "in" and "out" are the same units.
    """
    if isinstance(module, Structured):
        return module.parts(side)  # type: ignore[arg-type]
    if isinstance(module, _ConvNd):
        if side == "in" and not is_depthwise(module):
            return _own(module, ("weight",), axis=0 if isinstance(module, _ConvTransposeNd) else 1)
        across = 1 if isinstance(module, _ConvTransposeNd) and not is_depthwise(module) else 0
        return _own(module, ("weight",), axis=across) + _own(module, ("bias",), axis=0)
    if isinstance(module, nn.Linear):
        return _own(module, ("weight",), axis=1) if side == "in" else _own(module, ("weight", "bias"), axis=0)
    if isinstance(module, nn.Embedding):
        return _own(module, ("weight",), axis=1)
    if isinstance(module, _NORMS):
        return _own(module, ("weight", "bias", "running_mean", "running_var"), axis=0)
    if isinstance(module, nn.PReLU):
        return _own(module, ("weight",), axis=0) if module.num_parameters > 1 else ()
    if isinstance(module, nn.RNNBase) and (side == "in" or not module.proj_size):
        return tuple(_recurrent(module, side))
    raise BadInput(f"A {type(module).__name__} cannot be cut; write it as a searchkit.nn.parts.Structured.")


def _own(module: nn.Module, names: Iterable[str], *, axis: int) -> tuple[Part, ...]:
    tensors = module._parameters | module._buffers
    return tuple(Part(module, name, axis) for name in names if tensors.get(name) is not None)


def directions(module: nn.RNNBase) -> int:
    """2 for a bidirectional layer, else 1."""
    return 2 if module.bidirectional else 1


def _recurrent(module: nn.RNNBase, side: str) -> Iterator[Part]:
    """The slices of a torch recurrent layer.

    Output unit u < H is hidden unit u of the forward direction, and H + u that of the backward one. All layers have one
    hidden size, so unit u lies in each of them, in every gate.
    """
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    both = directions(module) == 2
    for direction in range(directions(module)):
        first = direction * module.hidden_size if both else None
        for layer in range(module.num_layers):
            end = f"l{layer}{'_reverse' if direction else ''}"
            if side == "in":
                if layer == 0:
                    yield Part(module, f"weight_ih_{end}", 1)
                continue
            if layer > 0:
                yield Part(module, f"weight_ih_{end}", 1)
            yield Part(module, f"weight_hh_{end}", 1, first=first)
            for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ())):
                yield Part(module, f"{name}_{end}", 0, blocks=gates, first=first)


def is_depthwise(module: nn.Module) -> bool:
    """Whether the module is a convolution with one group a channel."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels == module.in_channels


def within(module: nn.Module, side: str, drop: Sequence[int]) -> list[int]:
    """The units to drop along the axis that a grouped convolution groups.

    The tensor stores only the channels of one group there. The same positions are cut in every group
    (`searchkit.nn.surgery` ties them), so the first group says which.
    """
    grouped = "out" if isinstance(module, _ConvTransposeNd) else "in"
    if not isinstance(module, _ConvNd) or is_depthwise(module) or module.groups == 1 or side != grouped:
        return sorted(set(drop))
    width = (module.out_channels if grouped == "out" else module.in_channels) // module.groups
    return sorted({u for u in drop if u < width})


def channels(module: nn.Module, side: str) -> int:
    """How many units a side has now."""
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
    if isinstance(module, nn.RNNBase):
        return module.input_size if side == "in" else (module.proj_size or module.hidden_size) * directions(module)
    raise BadInput(f"A {type(module).__name__} cannot be cut; write it as a searchkit.nn.parts.Structured.")


def cut_(module: nn.Module, side: str, drop: Sequence[int]) -> None:
    """Remove the units `drop` of a side, in place."""
    if isinstance(module, Structured):
        return module.cut_(side, drop)  # type: ignore[arg-type]
    left, depthwise = channels(module, side) - len(set(drop)), is_depthwise(module)
    for part in parts(module, side):
        gone = set(drop) if part.name == "bias" else set(within(module, side, drop))
        part.keep_([u for u in range((part.first or 0) + part.units()) if u not in gone])
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
    elif isinstance(module, nn.RNNBase):
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
        module.hidden_size = module.get_parameter("weight_hh_l0").shape[1]
        for name, parameter in module.named_parameters():
            setattr(module, name, parameter)  # torch keeps a list of them beside, which only this brings up to date
