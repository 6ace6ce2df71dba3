"""Recurrent layers that can be pruned and exported: simple RNN, LSTM, GRU and LSTM with peepholes.

They replace torch.nn.RNN, GRU and LSTM, whose hidden units torch-pruning 1.6 does not cut (measured: nothing happens to
a GRU, and an LSTM is indexed wrongly).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured

# Number of gates, stored in the order of ONNX, and their order in torch's kernels. With ONNX's order the weights are
# plain initializers in the exported file, which int8 needs; reordering them before a torch kernel costs a small copy.
_GATES = {"simple": 1, "gru": 3, "lstm": 4, "peephole": 4}

_TO_TORCH = {"simple": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}  # z r h -> r z n; i o f c -> i f g o


class Recurrent(Structured):
    """One recurrent layer in one direction, starting from a zero state: (B, L, C) -> (B, L, H).

    Padding at the end of a row never reaches its valid steps. Parameters: weight_ih (1, G·H, C), weight_hh (1, G·H, H),
    bias_ih and bias_hh (G·H,), and peephole (3·H,) for the gates i, o, f; gates in the order of ONNX (z r h; i o f c).

    Args:
        inputs: Input channels C.
        hidden: Hidden units H.
        kind: "simple" (tanh; Elman 1990), "lstm" (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000),
            "gru" (Cho et al. 2014, with the reset gate after the product, as torch and cuDNN compute it), or "peephole"
            (an LSTM whose gates see the cell: Gers and Schmidhuber 2000).

    Raises:
        ValueError: If the kind is unknown.
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
        """Initialize: Xavier for inputs, orthogonal matrices for the recurrence, forget bias 1.

        One orthogonal matrix per gate (Saxe et al. 2014); a forget bias of 1 for LSTMs (Jozefowicz et al. 2015).
        """
        hidden = self.out_channels
        for block in torch.split(self.weight_ih[0], hidden):
            nn.init.xavier_uniform_(block)
        for block in torch.split(self.weight_hh[0], hidden):
            nn.init.orthogonal_(block)
        self.bias_ih.zero_()
        self.bias_hh.zero_()
        if self.kind in ("lstm", "peephole"):
            # The forget gate is the third block in the order of ONNX: i o f c.
            self.bias_ih[2 * hidden : 3 * hidden] = 1.0
        if self.peephole is not None:
            nn.init.uniform_(self.peephole, -1.0 / math.sqrt(hidden), 1.0 / math.sqrt(hidden))

    @property
    def in_channels(self) -> int:
        """Input channels C."""
        return self.weight_ih.shape[2]

    @property
    def out_channels(self) -> int:
        """Hidden units H."""
        return self.weight_hh.shape[2]

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the units of a side; a hidden unit has rows in every gate block."""
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
        """Run the layer over all steps."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.peephole)
        if torch.compiler.is_exporting():
            # As one custom operator, which the exporter translates to one ONNX node; traced step by step, the number of
            # steps would be fixed.
            y: Tensor = torch.ops.searchkit.recurrent(x, *weights, self.kind)
            return y
        return _recur(x, *weights, self.kind)

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.in_channels}, {self.out_channels}, kind={self.kind!r}"


def _recur(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, peephole: Tensor | None, kind: str
) -> Tensor:
    if peephole is not None:
        return _peephole_lstm(x, w_ih[0], w_hh[0], b_ih + b_hh, peephole)
    hidden = w_hh.shape[2]
    tensors = [_torch_order(t, kind) for t in (w_ih[0], w_hh[0], b_ih, b_hh)]
    if x.is_cuda:  # cuDNN warns about weights that are not views of one buffer, and copies them at every call
        pieces = torch.split(torch.cat([t.reshape(-1) for t in tensors]), [t.numel() for t in tensors])
        tensors = [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]
    zero = x.new_zeros(1, x.shape[0], hidden)
    state = (zero, zero) if kind == "lstm" else zero
    kernels: dict[str, Any] = {"simple": torch._VF.rnn_tanh, "gru": torch._VF.gru, "lstm": torch._VF.lstm}
    # has_biases, num_layers, dropout, train, bidirectional, batch_first; train keeps what the backward pass needs.
    y: Tensor = kernels[kind](x, state, tensors, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]
    return y


def _torch_order(blocks: Tensor, kind: str) -> Tensor:
    if kind == "simple":
        return blocks
    gates = blocks.chunk(_GATES[kind])
    return torch.cat([gates[g] for g in _TO_TORCH[kind]])


def _peephole_lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, peephole: Tensor) -> Tensor:
    """An LSTM with peepholes as a loop over steps: no torch kernel has them. Equations of ONNX's LSTM, input P."""
    with torch.autocast(x.device.type, enabled=False):  # the cell is a sum over steps: bf16 would lose small terms
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
    """Return the translations for `torch.onnx.export(dynamo=True, custom_translation_table=…)`.

    A Recurrent becomes one RNN, GRU or LSTM node, so that the number of steps may vary; its weights become initializers
    unchanged.
    """
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
            # linear_before_reset: the reset gate after the product, as torch and cuDNN compute it.
            y, _ = op.GRU(*arguments, hidden_size=hidden, linear_before_reset=1)
        elif peephole is None:
            y, _, _ = op.LSTM(*arguments, hidden_size=hidden)
        else:
            p = op.Unsqueeze(peephole, op.Constant(value_ints=[0]))
            y, _, _ = op.LSTM(*arguments, None, None, None, p, hidden_size=hidden)
        return op.Transpose(op.Squeeze(y, op.Constant(value_ints=[1])), perm=[1, 0, 2])  # (L, 1, B, H) -> (B, L, H)

    return {torch.ops.searchkit.recurrent.default: recurrent}
