"""Sequences of different lengths in one batch: masks, reversal, and pooling over the valid steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured


def valid_steps(x_BLC: Tensor, lengths_B: Tensor) -> Tensor:
    """Return a mask of the steps that belong to each row, (B, L) bool.

    Args:
        x_BLC: Steps, for L and the device.
        lengths_B: Valid steps of each row, int64.
    """
    return torch.arange(x_BLC.shape[1], device=x_BLC.device)[None, :] < lengths_B[:, None]


def trim(x: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Cut off the steps after the longest row: (B, …, L) -> (B, …, L').

    For training only: the steps after it are padding, which costs time and changes nothing. In an exported graph the
    number of steps must not depend on a value.
    """
    return x if lengths_B is None else x[..., : int(lengths_B.max())]


def reverse(x_BLC: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Reverse the valid steps of each row; its padding stays at the end.

    A backward direction is `reverse(layer(reverse(x)))`.
    """
    if lengths_B is None:
        return x_BLC.flip(1)
    step = torch.arange(x_BLC.shape[1], device=x_BLC.device)[None, :]
    index = torch.where(step < lengths_B[:, None], lengths_B[:, None] - 1 - step, step)
    return x_BLC.gather(1, index[:, :, None].expand(-1, -1, x_BLC.shape[2]))


def pool(x_BLD: Tensor, lengths_B: Tensor | None, how: str) -> Tensor:
    """Pool over the valid steps: (B, L, D) -> (B, D).

    Args:
        x_BLD: Steps.
        lengths_B: Valid steps of each row, at least 1; None if all are valid.
        how: "first", "last", "mean" or "max". The final state of a backward direction is its first step.
    """
    if how == "first":
        return x_BLD[:, 0]
    if lengths_B is None:
        return {"last": lambda: x_BLD[:, -1], "mean": lambda: x_BLD.mean(1), "max": lambda: x_BLD.amax(1)}[how]()
    # Gather and masks instead of indexing by Python numbers: lengths are an input of the exported graph.
    if how == "last":
        index = (lengths_B - 1)[:, None, None].expand(-1, 1, x_BLD.shape[2])
        return x_BLD.gather(1, index)[:, 0]
    outside = ~valid_steps(x_BLD, lengths_B)[:, :, None]
    if how == "mean":
        return x_BLD.masked_fill(outside, 0.0).sum(1) / lengths_B[:, None].to(x_BLD.dtype)
    assert how == "max", how
    # The smallest finite number, not −inf, of which int8 calibration could take no range.
    return x_BLD.masked_fill(outside, torch.finfo(x_BLD.dtype).min).amax(1)


class AttentionPool(Structured):
    """Attention pooling, the mean weighted by a learned score: (B, L, D) -> (B, D).

    Yang et al. 2016, "Hierarchical attention networks for document classification", with one query.

    Args:
        width: Width D.
    """

    coupled = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.query, std=1.0 / math.sqrt(width))

    @property
    def in_channels(self) -> int:
        """Width D."""
        return self.query.shape[0]

    @property
    def out_channels(self) -> int:
        """Width D."""
        return self.query.shape[0]

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the entries of the query, the same for both sides."""
        return (Part(self, "query", 0),)

    def surrogate(self, x: Tensor) -> Tensor:
        """Return zeros with the shape of the output, for tracing."""
        return self.stand_in(x, (x.shape[0], x.shape[2]))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Pool.

        Args:
            x: Steps, (B, L, D).
            context: Valid steps of each row, (B,), or None if all are valid.
        """
        lengths_B = context[0] if context else None
        score_BL = x @ self.query
        if lengths_B is not None:
            score_BL = score_BL.masked_fill(~valid_steps(x, lengths_B), float("-inf"))
        return (score_BL.softmax(1)[:, :, None] * x).sum(1)
