"""The modules whose cutting and exporting takes knowledge; families compose them with ordinary torch modules.

One idea: each `Structured` module says, as data (`parts`), which slices of which tensors belong to one unit of each of
its sides. Cutting, masking and scoring units all read that one table, so none of them has a case for attention or LSTM.

Axes: B batch, L step, C input channel, D width, H hidden unit, G gate, N attention head, K channel of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Side: TypeAlias = Literal["in", "out", "inner"]


# ── Structure ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Part:
    """Where the units of one side lie in the tensor `owner.name`, along `axis`.

    Unit u of n stands at b·n·run + u·run + r for every b < blocks and r < run: an LSTM's unit lies in four gate blocks,
    an attention head is a run of rows. first: where the units of a side are shared out to several tensors, the number
    of the first one that lies in this tensor (whose own numbers start at 0); None where all of them lie here."""

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


class _Surrogate(torch.autograd.Function):
    """One autograd node from x to zeros of `shape`: a tracer that walks the graph sees one step, whatever is inside.

    `anchor`, a parameter, gives the node a place in the graph even where x is an input of the network. `other`: a
    second tensor that the module reads, whose channels are cut with those of x."""

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
        out: Tensor = _Surrogate.apply(x, next(self.parameters(), None), shape, other)  # type: ignore[no-untyped-call]
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


# ── Convolution ──────────────────────────────────────────────────────────────────────────────────────────────────────


class MixedDepthwise(Structured):
    """A depthwise convolution with kernels of several sizes: (B, C, H, W) -> (B, C, ceil(H / stride), and W likewise).
    Tan & Le, 2019, arXiv:1907.09595 (MixConv).

    Each size has a run of consecutive channels, all as wide as multiples of four allow, which is what ONNX Runtime's
    quick depthwise kernels take; of any number where there are too few channels for that. Cutting a channel narrows the
    run that it lies in. A size whose last channel went keeps a weight of no elements and computes nothing."""

    coupled = True

    def __init__(self, width: int, *, kernels: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
            raise ValueError(f"The kernel sizes {tuple(kernels)} do not mix; they are odd, and there is at least one.")
        if width < len(kernels):
            raise ValueError(f"A width of {width} cannot be shared out to {len(kernels)} kernel sizes.")
        self.stride = stride
        block = 4 if width >= 4 * len(kernels) else 1
        share, left = divmod(width // block, len(kernels))
        shares = [block * (share + 1)] * left + [block * share] * (len(kernels) - left)
        shares[-1] += width % block
        self.convs = nn.ModuleList(
            nn.Conv2d(n, n, size, stride, size // 2, groups=n, bias=False)
            for n, size in zip(shares, kernels, strict=True)
        )

    def runs(self) -> list[tuple[nn.Conv2d, int]]:
        """The convolution of each size, and how many channels it has now."""
        return [(conv, conv.weight.shape[0]) for conv in self.convs if isinstance(conv, nn.Conv2d)]

    @property
    def in_channels(self) -> int:
        return sum(n for _, n in self.runs())

    @property
    def out_channels(self) -> int:
        return self.in_channels

    def parts(self, side: Side) -> tuple[Part, ...]:
        found, first = [], 0
        for conv, n in self.runs():
            if n:
                found.append(Part(conv, "weight", 0, first=first))
            first += n
        return tuple(found)

    def refit_(self) -> None:
        for conv, n in self.runs():
            conv.in_channels = conv.out_channels = conv.groups = n

    def surrogate(self, x: Tensor) -> Tensor:
        height, width = ((size - 1) // self.stride + 1 for size in x.shape[2:])
        return self.stand_in(x, (x.shape[0], self.out_channels, height, width))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        shares = torch.split(x, [n for _, n in self.runs()], 1)
        mixed = [conv(share) for (conv, n), share in zip(self.runs(), shares, strict=True) if n]
        return torch.cat(mixed, 1) if len(mixed) > 1 else mixed[0]


# ── Recurrent ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Gates in the order of ONNX, and where torch's kernels look for them. Storing ONNX's order keeps the exported file's
# weights plain initializers (int8 needs that); the reorder before a torch kernel costs a small copy.
_GATES = {"simple": 1, "gru": 3, "lstm": 4, "peephole": 4}
_TO_TORCH = {"simple": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}  # z r h -> r z n; i o f c -> i f g o


class Recurrent(Structured):
    """One layer of a recurrent network in one direction, from a zero state: (B, L, C) -> (B, L, H).

    kind: "simple" (tanh; Elman, 1990), "lstm" (Hochreiter and Schmidhuber, 1997; forget gate of Gers et al., 2000),
    "gru" (Cho et al., 2014, with the reset gate after the product, as torch and cuDNN have it), or "peephole" (an LSTM
    whose gates see the cell: Gers and Schmidhuber, 2000).

    weight_ih (1, G·H, C), weight_hh (1, G·H, H), bias_ih and bias_hh (G·H,), and for "peephole" peephole (3·H,) for the
    gates i, o, f; gates in ONNX's order (z r h; i o f c). Padding at the end of a row never reaches its valid steps.
    """

    def __init__(self, inputs: int, hidden: int, *, kind: str) -> None:
        super().__init__()
        if kind not in _GATES:
            raise ValueError(f"No recurrent kind '{kind}'; the kinds are {', '.join(_GATES)}.")
        self.kind = kind
        gates = _GATES[kind]
        self.weight_ih = nn.Parameter(torch.empty(1, gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(1, gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.zeros(gates * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(gates * hidden))
        self.peephole = nn.Parameter(torch.empty(3 * hidden)) if kind == "peephole" else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier input weights, an orthogonal recurrent matrix a gate (Saxe et al., 2014), a forget bias of 1 for LSTMs
        (Jozefowicz et al., 2015)."""
        hidden = self.out_channels
        for block in torch.split(self.weight_ih[0], hidden):
            nn.init.xavier_uniform_(block)
        for block in torch.split(self.weight_hh[0], hidden):
            nn.init.orthogonal_(block)
        self.bias_ih.zero_()
        self.bias_hh.zero_()
        if self.kind in ("lstm", "peephole"):
            self.bias_ih[2 * hidden : 3 * hidden] = 1.0
        if self.peephole is not None:
            nn.init.uniform_(self.peephole, -1.0 / math.sqrt(hidden), 1.0 / math.sqrt(hidden))

    @property
    def in_channels(self) -> int:
        return self.weight_ih.shape[2]

    @property
    def out_channels(self) -> int:
        return self.weight_hh.shape[2]

    def parts(self, side: Side) -> tuple[Part, ...]:
        if side == "in":
            return (Part(self, "weight_ih", 2),)
        gates = _GATES[self.kind]
        parts = (
            Part(self, "weight_ih", 1, blocks=gates),
            Part(self, "weight_hh", 1, blocks=gates),
            Part(self, "weight_hh", 2),
            Part(self, "bias_ih", 0, blocks=gates),
            Part(self, "bias_hh", 0, blocks=gates),
        )
        return parts if self.peephole is None else (*parts, Part(self, "peephole", 0, blocks=3))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.peephole)
        if torch.compiler.is_exporting():
            y: Tensor = torch.ops.searchkit.recurrent(x, *weights, self.kind)
            return y
        return _recur(x, *weights, self.kind)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kind={self.kind!r}"


def _recur(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, peephole: Tensor | None, kind: str
) -> Tensor:
    if peephole is not None:
        return _peephole_lstm(x, w_ih[0], w_hh[0], b_ih + b_hh, peephole)
    hidden = w_hh.shape[2]
    tensors = [_torch_order(t, kind) for t in (w_ih[0], w_hh[0], b_ih, b_hh)]
    if x.is_cuda:  # cuDNN warns of, and copies at every call, weights that are not views of one buffer
        pieces = torch.split(torch.cat([t.reshape(-1) for t in tensors]), [t.numel() for t in tensors])
        tensors = [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]
    zero = x.new_zeros(1, x.shape[0], hidden)
    state = (zero, zero) if kind == "lstm" else zero
    kernels: dict[str, Any] = {"simple": torch._VF.rnn_tanh, "gru": torch._VF.gru, "lstm": torch._VF.lstm}
    # has_biases, num_layers, dropout, train, bidirectional, batch_first. train keeps what a backward pass needs.
    y: Tensor = kernels[kind](x, state, tensors, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]
    return y


def _torch_order(blocks: Tensor, kind: str) -> Tensor:
    if kind == "simple":
        return blocks
    gates = blocks.chunk(_GATES[kind])
    return torch.cat([gates[g] for g in _TO_TORCH[kind]])


def _peephole_lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, peephole: Tensor) -> Tensor:
    """A loop over steps: no torch kernel has peepholes. The equations are those of ONNX's LSTM with input P."""
    with torch.autocast(x.device.type, enabled=False):  # a cell that sums over steps wants its full precision
        gates_x = F.linear(x.to(weight_ih.dtype), weight_ih, bias).unbind(1)
        p_i, p_o, p_f = peephole.chunk(3)
        h = c = weight_hh.new_zeros(x.shape[0], weight_hh.shape[1])
        recurrent, states = weight_hh.t(), []
        for gate_x in gates_x:
            i, o, f, g = torch.addmm(gate_x, h, recurrent).chunk(4, dim=1)
            c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
            h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
            states.append(h)
    return torch.stack(states, dim=1)


@torch.library.custom_op("searchkit::recurrent", mutates_args=())
def _recurrent_op(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, peephole: Tensor | None, kind: str
) -> Tensor:
    return _recur(x, w_ih, w_hh, b_ih, b_hh, peephole, kind).clone()


@_recurrent_op.register_fake
def _recurrent_shape(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, peephole: Tensor | None, kind: str
) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], w_hh.shape[2])


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(dynamo=True, custom_translation_table=…)`: a Recurrent becomes one RNN, GRU or LSTM node,
    so that the number of steps may vary; its weights are initializers as they stand."""
    from onnxscript import opset20  # at export only: half a second

    op: Any = opset20

    def recurrent(
        x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, peephole: Any = None, kind: str = "simple"
    ) -> Any:
        hidden = int(w_hh.shape[2])
        bias = op.Unsqueeze(op.Concat(b_ih, b_hh, axis=0), op.Constant(value_ints=[0]))
        arguments = (op.Transpose(x, perm=[1, 0, 2]), w_ih, w_hh, bias)
        if kind == "simple":
            y, _ = op.RNN(*arguments, hidden_size=hidden)
        elif kind == "gru":
            y, _ = op.GRU(*arguments, hidden_size=hidden, linear_before_reset=1)
        elif peephole is None:
            y, _, _ = op.LSTM(*arguments, hidden_size=hidden)
        else:
            p = op.Unsqueeze(peephole, op.Constant(value_ints=[0]))
            y, _, _ = op.LSTM(*arguments, None, None, None, p, hidden_size=hidden)
        return op.Transpose(op.Squeeze(y, op.Constant(value_ints=[1])), perm=[1, 0, 2])  # (L, 1, B, H) -> (B, L, H)

    return {torch.ops.searchkit.recurrent.default: recurrent}


# ── Rows of different lengths ────────────────────────────────────────────────────────────────────────────────────────


def valid_steps(x_BLC: Tensor, lengths_B: Tensor) -> Tensor:
    """(B, L) bool: True at the steps that belong to the row."""
    return torch.arange(x_BLC.shape[1], device=x_BLC.device)[None, :] < lengths_B[:, None]


def trim(x: Tensor, lengths_B: Tensor | None) -> Tensor:
    """(B, …, L) -> (B, …, L') with no more steps than the longest row has. For training: what stands behind them costs
    time and changes nothing. In an exported graph the number of steps must not depend on a value."""
    return x if lengths_B is None else x[..., : int(lengths_B.max())]


def reverse(x_BLC: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Each row back to front, its padding still at the end. A second direction is `reverse(layer(reverse(x)))`."""
    if lengths_B is None:
        return x_BLC.flip(1)
    step = torch.arange(x_BLC.shape[1], device=x_BLC.device)[None, :]
    index = torch.where(step < lengths_B[:, None], lengths_B[:, None] - 1 - step, step)
    return x_BLC.gather(1, index[:, :, None].expand(-1, -1, x_BLC.shape[2]))


def pool(x_BLD: Tensor, lengths_B: Tensor | None, how: str) -> Tensor:
    """(B, L, D) -> (B, D) over the valid steps; how: first, last, mean or max. A row has at least one valid step.

    The last state of the reversed direction of a bidirectional network stands first."""
    if how == "first":
        return x_BLD[:, 0]
    if lengths_B is None:
        return {"last": lambda: x_BLD[:, -1], "mean": lambda: x_BLD.mean(1), "max": lambda: x_BLD.amax(1)}[how]()
    if how == "last":
        index = (lengths_B - 1)[:, None, None].expand(-1, 1, x_BLD.shape[2])
        return x_BLD.gather(1, index)[:, 0]
    outside = ~valid_steps(x_BLD, lengths_B)[:, :, None]
    if how == "mean":
        return x_BLD.masked_fill(outside, 0.0).sum(1) / lengths_B[:, None].to(x_BLD.dtype)
    assert how == "max", how
    return x_BLD.masked_fill(outside, torch.finfo(x_BLD.dtype).min).amax(1)


class AttentionPool(Structured):
    """The mean of the valid steps, weighted by a learned score: (B, L, D) -> (B, D). Yang et al., 2016, one query."""

    coupled = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.query, std=1.0 / math.sqrt(width))

    @property
    def in_channels(self) -> int:
        return self.query.shape[0]

    @property
    def out_channels(self) -> int:
        return self.query.shape[0]

    def parts(self, side: Side) -> tuple[Part, ...]:
        return (Part(self, "query", 0),)

    def surrogate(self, x: Tensor) -> Tensor:
        return self.stand_in(x, (x.shape[0], x.shape[2]))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: the lengths (B,), or None where every step is valid."""
        lengths_B = context[0] if context else None
        score_BL = x @ self.query
        if lengths_B is not None:
            score_BL = score_BL.masked_fill(~valid_steps(x, lengths_B), float("-inf"))
        return (score_BL.softmax(1)[:, :, None] * x).sum(1)
