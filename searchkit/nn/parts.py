"""The modules whose cutting and exporting takes knowledge; families compose them with ordinary torch modules.

One idea: each `Structured` module says, as data (`parts`), which slices of which tensors belong to one unit of each of
its sides. Cutting, masking and scoring units all read that one table, so none of them has a case for attention or LSTM.

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


@dataclass(frozen=True, slots=True)
class Part:
    """Where the units of one side lie in the tensor `owner.name`, along `axis`.

    Unit u of n stands at b·n·run + u·run + r for every b < blocks and r < run: an LSTM's unit lies in four gate blocks,
    an attention head is a run of rows. first: where the units of a side are shared out to several tensors, the number
    of the first one that lies in this tensor (whose own numbers start at 0); None where all of them lie here.
    """

    owner: nn.Module
    name: str
    axis: int
    blocks: int = 1
    run: int = 1
    first: int | None = None

    def tensor(self) -> Tensor:
        return self.owner.get_parameter(self.name) if self.is_parameter else self.owner.get_buffer(self.name)

    @property
    def is_parameter(self) -> bool:
        return self.name in self.owner._parameters

    def units(self) -> int:
        """How many lie here."""
        return self.tensor().shape[self.axis] // (self.blocks * self.run)

    def positions(self, units: Sequence[int]) -> Tensor:
        """Indices along `axis`, int64, block by block in the order of `units`; units that lie elsewhere have none."""
        device, n = self.tensor().device, self.units()
        here = units if self.first is None else [u - self.first for u in units if 0 <= u - self.first < n]
        unit = torch.as_tensor(list(here), dtype=torch.int64, device=device)
        block = torch.arange(self.blocks, device=device) * n
        within = torch.arange(self.run, device=device)
        return ((block[:, None] + unit)[:, :, None] * self.run + within).reshape(-1)

    def by_unit(self, tensor: Tensor) -> Tensor:
        """A tensor shaped as `tensor()`, as (units, everything that belongs to a unit)."""
        split = tensor.movedim(self.axis, 0).reshape(self.blocks, self.units(), self.run, -1)
        return split.transpose(0, 1).reshape(self.units(), -1)

    def keep_(self, units: Sequence[int]) -> None:
        """Cut every other unit away. The gradient goes with its units, so that a step may follow at once."""
        old, index = self.tensor(), self.positions(units)
        new = old.detach().index_select(self.axis, index).contiguous()
        if not self.is_parameter:
            self.owner._buffers[self.name] = new
            return
        parameter = nn.Parameter(new, requires_grad=old.requires_grad)
        if old.grad is not None:
            parameter.grad = old.grad.index_select(self.axis, index).contiguous()
        self.owner.register_parameter(self.name, parameter)

    @torch.no_grad()
    def zero_(self, units: Sequence[int]) -> None:
        self.tensor().index_fill_(self.axis, self.positions(units), 0.0)


_tracing = False


@contextmanager
def surrogates() -> Iterator[None]:
    """While it lasts, every Structured module runs its surrogate: for tracing which channels depend on which."""
    global _tracing
    before, _tracing = _tracing, True
    try:
        yield
    finally:
        _tracing = before


def is_tracing() -> bool:
    """Whether forward passes are stand-ins: see `surrogates`."""
    return _tracing


class Surrogate(torch.autograd.Function):
    """One autograd node from x to zeros of `shape`: a tracer that walks the graph sees one step, whatever is inside.

    `anchor`, a parameter, gives the node a place in the graph even where x is an input of the network. `other`: a
    second tensor that the module reads, whose channels are cut with those of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor | None, shape: tuple[int, ...], other: Tensor | None = None
    ) -> Tensor:
        ctx.shape = x.shape
        return x.new_zeros(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.new_zeros(ctx.shape), None, None, None


class Structured(nn.Module):
    """A module that knows its units. A subclass gives `run`, `parts`, the channel numbers, and `refit_` if it has to.

    coupled: output channel i is input channel i (a sum, a pooling), so that both sides are cut at once.
    n_inner: units inside it that no other module sees (attention heads); 0 where there are none.
    out_run: output channels in a row that can only be cut together (those of a head whose output others read).
    """

    coupled = False
    n_inner = 0
    out_run = 1

    @property
    def in_channels(self) -> int:
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        raise NotImplementedError

    def parts(self, side: Side) -> tuple[Part, ...]:
        """The slices of the units of a side. For a coupled module "in" and "out" are the same."""
        raise NotImplementedError

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """What the module computes; `forward` runs it, or the surrogate."""
        raise NotImplementedError

    def refit_(self) -> None:
        """Bring the numbers that the module keeps beside its tensors into line with them, after a cut."""

    def surrogate(self, x: Tensor) -> Tensor:
        """A stand-in with the same dependency between input and output channels: (…, in) -> (…, out)."""
        return self.stand_in(x, (*x.shape[:-1], self.out_channels))

    def stand_in(self, x: Tensor, shape: tuple[int, ...], other: Tensor | None = None) -> Tensor:
        out: Tensor = Surrogate.apply(x, next(self.parameters(), None), shape, other)  # type: ignore[no-untyped-call]
        return out

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        return self.surrogate(x) if _tracing else self.run(x, *context)

    def units(self, side: Side) -> int:
        return {"in": self.in_channels, "out": self.out_channels, "inner": self.n_inner}[side]

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        """Remove the units `drop` of a side, in place."""
        gone = set(drop)
        keep = [u for u in range(self.units(side)) if u not in gone]
        for part in self.parts(side):
            part.keep_(keep)
        self.refit_()

    def cut_in_(self, drop: Sequence[int]) -> None:
        self.cut_("in", drop)

    def cut_out_(self, drop: Sequence[int]) -> None:
        self.cut_("out", drop)

    def cut_inner_(self, drop: Sequence[int]) -> None:
        self.cut_("inner", drop)
