"""Position embeddings, and an output layer tied to the token embedding.

Axes: B batch, L step, D width, V token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured


class Positions(Structured):
    """Add an embedding of its position to each step: (B, L, D) -> (B, L, D), L ≤ `length`.

    Args:
        width: Width D.
        length: Number of positions.
        kind: "learned", or "sinusoidal" (Vaswani et al. 2017, section 3.5). The latter is a table too, so that pruning
            a channel keeps the other columns.

    Raises:
        ValueError: If the kind is unknown.
    """

    coupled = True

    def __init__(self, width: int, *, length: int, kind: str = "learned") -> None:
        super().__init__()
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(length, width))
            nn.init.normal_(self.table, std=0.02)
        elif kind == "sinusoidal":
            self.register_buffer("table", _sinusoids(length, width))
        else:
            raise ValueError(f"No positions of kind '{kind}'; the kinds are learned, sinusoidal.")

    @property
    def in_channels(self) -> int:
        """Width D."""
        return self.table.shape[1]

    @property
    def out_channels(self) -> int:
        """Width D."""
        return self.table.shape[1]

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the columns of the table, the same for both sides."""
        return (Part(self, "table", 1),)

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Add the positions.

        Args:
            x: Steps, (B, L, D).
            context: Optionally steps_L, int64, the positions of the steps; by default 0, 1, …
        """
        steps_L = context[0] if context else None
        if steps_L is None and isinstance(x.shape[1], torch.SymInt):
            # Export with a varying length: a slice of the table would fix the length to that of the example.
            steps_L = torch.arange(x.shape[1], device=x.device)
        return x + (self.table[: x.shape[1]] if steps_L is None else F.embedding(steps_L, self.table))


def _sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines in the even columns, cosines in the odd ones."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle)[:, : width // 2]
    return table


class TiedOutput(Structured):
    """Logits over tokens with the weights of the embedding: (B, L, D) -> (B, L, V).

    Press and Wolf 2017, arXiv:1608.05859. The module has no tensor of its own: if pruning takes a channel from the
    embedding, it is gone here as well.

    Args:
        embedding: The embedding whose rows are the output weights.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: registered as a submodule, its weights would be stored twice
        self._width = embedding.embedding_dim

    @property
    def in_channels(self) -> int:
        """Width D."""
        return self._width

    @property
    def out_channels(self) -> int:
        """Number of tokens."""
        return self._embedding[0].num_embeddings

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return no slices for "in"; the tokens themselves cannot be cut."""
        if side == "in":
            return ()
        raise ValueError("The tokens of a TiedOutput cannot be cut; they are those of its embedding.")

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        """Follow a cut of the embedding's channels."""
        assert side == "in", "the tokens are those of the embedding"
        self._width -= len(set(drop))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Return the logits, (B, L, V)."""
        out: Tensor = F.linear(x, self._embedding[0].weight)
        return out

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.in_channels}, {self.out_channels}"
