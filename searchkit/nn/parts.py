"""The base of modules that need special care when they are pruned and exported.

Each `Structured` module lists, as data (`parts`), which tensor slices belong to one unit of each of its sides. Cutting,
masking and scoring units all read this list, so none of them has a special case for attention or LSTM. Families combine
these modules with ordinary torch modules.

Axes: B batch, L step, C input channel, D width, H hidden unit, G gate, N attention head, K channel of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Side: TypeAlias = Literal["in", "out", "inner"]
"""A side of a module: input channels, output channels, or units inside that no other module sees."""


@dataclass(frozen=True, slots=True)
class Part:
    """The slices of the tensor `owner.name`, along `axis`, that belong to the units of one side.

    Unit u of n has the indices b·n·run + u·run + r for every b < blocks and r < run: an LSTM's hidden unit is in four
    gate blocks, and an attention head is a run of rows.

    Attributes:
        owner: The module that has the tensor.
        name: Name of its parameter or buffer.
        axis: The axis of the units.
        blocks: Number of blocks that each hold all units.
        run: Consecutive indices of a unit.
        first: Number of the first unit in this tensor, if the units of the side are divided among several tensors; None
            if all are here.
    """

    owner: nn.Module
    name: str
    axis: int
    blocks: int = 1
    run: int = 1
    first: int | None = None

    def tensor(self) -> Tensor:
        """Return the parameter or buffer."""
        return self.owner.get_parameter(self.name) if self.is_parameter else self.owner.get_buffer(self.name)

    @property
    def is_parameter(self) -> bool:
        """Whether the tensor is a parameter and not a buffer."""
        return self.name in self.owner._parameters

    def units(self) -> int:
        """Return the number of units in this tensor."""
        return self.tensor().shape[self.axis] // (self.blocks * self.run)

    def positions(self, units: Sequence[int]) -> Tensor:
        """Return the indices of units along `axis`.

        Args:
            units: Numbers of units of the side.

        Returns:
            Indices, int64, block by block in the order of `units`; none for units in other tensors.
        """
        device, n = self.tensor().device, self.units()
        here = units if self.first is None else [u - self.first for u in units if 0 <= u - self.first < n]
        unit = torch.as_tensor(list(here), dtype=torch.int64, device=device)
        block = torch.arange(self.blocks, device=device) * n
        within = torch.arange(self.run, device=device)
        return ((block[:, None] + unit)[:, :, None] * self.run + within).reshape(-1)

    def by_unit(self, tensor: Tensor) -> Tensor:
        """Reshape a tensor with the shape of `tensor()` to (units, everything that belongs to a unit)."""
        split = tensor.movedim(self.axis, 0).reshape(self.blocks, self.units(), self.run, -1)
        return split.transpose(0, 1).reshape(self.units(), -1)

    def keep_(self, units: Sequence[int]) -> None:
        """Remove all other units, in place.

        The gradient is cut as well, so that an optimizer step may follow at once.
        """
        old, index = self.tensor(), self.positions(units)
        new = old.detach().index_select(self.axis, index).contiguous()
        # A new Parameter, since the shape of an existing one cannot change under autograd. Optimizers hold the old one,
        # so they are made after a cut.
        if not self.is_parameter:
            self.owner._buffers[self.name] = new
            return
        parameter = nn.Parameter(new, requires_grad=old.requires_grad)
        if old.grad is not None:
            parameter.grad = old.grad.index_select(self.axis, index).contiguous()
        self.owner.register_parameter(self.name, parameter)

    @torch.no_grad()
    def zero_(self, units: Sequence[int]) -> None:
        """Set the slices of units to 0, in place."""
        self.tensor().index_fill_(self.axis, self.positions(units), 0.0)


_tracing = False


@contextmanager
def surrogates() -> Iterator[None]:
    """Let every Structured module run its surrogate inside the block, to trace which channels depend on which."""
    global _tracing
    before, _tracing = _tracing, True
    try:
        yield
    finally:
        _tracing = before


def is_tracing() -> bool:
    """Return whether forward passes run surrogates; see `surrogates`."""
    return _tracing


class Surrogate(torch.autograd.Function):
    """One autograd node from x to zeros of `shape`, so that a tracer sees one step whatever is inside.

    `anchor`, a parameter, gives the node a place in the graph even if x is an input of the network. `other` is a second
    input whose channels are cut with those of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor | None, shape: tuple[int, ...], other: Tensor | None = None
    ) -> Tensor:
        """Return zeros of `shape`."""
        ctx.shape = x.shape
        return x.new_zeros(shape)  # the tracer looks at shapes and graph nodes, never at values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return a zero gradient for x."""
        return grad.new_zeros(ctx.shape), None, None, None


class Structured(nn.Module):
    """A module that knows its units. Subclasses implement `run`, `parts`, the channel counts, and `refit_`.

    Attributes:
        coupled: Whether output channel i is input channel i (e.g. a pooling), so that both sides are cut at once.
        n_inner: Number of units inside that no other module sees, such as attention heads; 0 if there are none.
        out_run: Consecutive output channels that can only be cut together, e.g. those of a concatenated head.
    """

    coupled = False
    n_inner = 0
    out_run = 1

    @property
    def in_channels(self) -> int:
        """Number of units of the side "in"."""
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        """Number of units of the side "out"."""
        raise NotImplementedError

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the units of a side; a coupled module gives the same for "in" and "out"."""
        raise NotImplementedError

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Compute the output; `forward` calls this, or the surrogate while tracing."""
        raise NotImplementedError

    def refit_(self) -> None:
        """Update the sizes that the module keeps besides its tensors, after a cut."""

    def surrogate(self, x: Tensor) -> Tensor:
        """Return a stand-in for the output with the same dependency between channels: (…, in) -> (…, out)."""
        return self.stand_in(x, (*x.shape[:-1], self.out_channels))

    def stand_in(self, x: Tensor, shape: tuple[int, ...], other: Tensor | None = None) -> Tensor:
        """Return zeros of a shape, connected to x in the autograd graph.

        Args:
            x: The input.
            shape: Shape of the output.
            other: A second input whose channels are cut with those of x.
        """
        out: Tensor = Surrogate.apply(x, next(self.parameters(), None), shape, other)  # type: ignore[no-untyped-call]
        return out

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Run the module, or its surrogate while tracing."""
        return self.surrogate(x) if _tracing else self.run(x, *context)

    def units(self, side: Side) -> int:
        """Return the number of units of a side."""
        return {"in": self.in_channels, "out": self.out_channels, "inner": self.n_inner}[side]

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        """Remove units of a side, in place.

        Args:
            side: "in", "out" or "inner".
            drop: Numbers of the units to remove.
        """
        gone = set(drop)
        keep = [u for u in range(self.units(side)) if u not in gone]
        for part in self.parts(side):
            part.keep_(keep)
        self.refit_()

    def mask_(self, side: Side, drop: Sequence[int]) -> None:
        """Have the module compute, in place and at its full size, what it computes without the units `drop`."""
        for part in self.parts(side):
            part.zero_(drop)

    def cut_in_(self, drop: Sequence[int]) -> None:
        """Remove input units, in place."""
        self.cut_("in", drop)

    def cut_out_(self, drop: Sequence[int]) -> None:
        """Remove output units, in place."""
        self.cut_("out", drop)

    def cut_inner_(self, drop: Sequence[int]) -> None:
        """Remove inner units, in place."""
        self.cut_("inner", drop)
