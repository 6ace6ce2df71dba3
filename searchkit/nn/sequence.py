"""Steps of different number in one batch: masks, reversal, and pooling over the valid steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured


def valid_steps(x_BLC: Tensor, lengths_B: Tensor) -> Tensor:
    """(B, L) bool: True at the steps that belong to the row."""
    return torch.arange(x_BLC.shape[1], device=x_BLC.device)[None, :] < lengths_B[:, None]


def trim(x: Tensor, lengths_B: Tensor | None) -> Tensor:
    """(B, …, L) -> (B, …, L') with no more steps than the longest row has. For training: what stands behind them costs
    time and changes nothing. In an exported graph the number of steps must not depend on a value.
    """
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

    The last state of the reversed direction of a bidirectional network stands first.
    """
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
