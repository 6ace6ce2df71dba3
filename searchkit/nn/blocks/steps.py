"""The stem and recurrent layer of families that read sequences: series or tokens to (B, L, D).

Padding is zeroed before a frame can see it, and lengths are converted to frames, so that padding never affects an
answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.nn.blocks.layers import plain_answer
from searchkit.nn.recurrent import Recurrent
from searchkit.nn.sequence import reverse, trim, valid_steps


class Stem(nn.Module):
    """Overlapping frames of a series, or embedded tokens: (B, C, L) or (B, L) -> (B, ceil(L / hop), D).

    Frame i is centered on step i·hop; steps outside the row count as zeros. In training, L is cut to the longest row of
    the batch.

    Args:
        spec: The data.
        width: Output width D.
        frame: Steps of a frame, odd.
        hop: Steps from one frame to the next.
        embedded: Width of the token embedding; 0 for `width`. Single tokens with an embedding of that width need no
            frames.
        dropout: Dropout of embedded tokens.
    """

    def __init__(
        self, spec: DataSpec, width: int, *, frame: int, hop: int, embedded: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hop = hop
        self.embedding: nn.Embedding | None = None
        channels = spec.inputs[0].shape[0]
        if spec.modality == "tokens":
            channels = embedded or width
            self.embedding = nn.Embedding(spec.vocabulary, channels)
            # So that an embedded token has norm 1 on average, whatever its width.
            nn.init.normal_(self.embedding.weight, std=channels**-0.5)
        assert channels is not None
        plain = self.embedding is not None and frame == hop == 1 and channels == width
        self.conv = None if plain else nn.Conv1d(channels, width, frame, hop, frame // 2)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the steps, (B, L', D), and their lengths.

        Args:
            x: Series (B, C, L), or tokens (B, L) int64.
            lengths_B: Valid steps of each row, or None if all are valid.
        """
        if self.training:
            x = trim(x, lengths_B)
        if self.embedding is not None:
            embedded_BLD = self.dropout(self.embedding(x))
            if self.conv is None:
                return embedded_BLD, lengths_B
            x = embedded_BLD.transpose(1, 2)
        assert self.conv is not None
        if lengths_B is not None:
            # Before the convolution: a frame at the end of a row reaches into its padding.
            x = x * valid_steps(x.transpose(1, 2), lengths_B)[:, None, :].to(x.dtype)
            lengths_B = torch.div(lengths_B + (self.hop - 1), self.hop, rounding_mode="floor")
        return self.relu(self.conv(x)).transpose(1, 2), lengths_B


def accepts(spec: DataSpec) -> str | None:
    """Return None if the data are sequences with one answer each, or a forecast; else the reason why not."""
    if spec.modality not in ("series", "tokens"):
        return "it reads steps: series (channels, steps) or tokens"
    return None if spec.forecasts else plain_answer(spec)


def check_stem(spec: DataSpec, frame: int) -> None:
    """Check that a frame fits into the rows.

    Raises:
        Infeasible: If a frame is longer than the rows.
    """
    steps = spec.inputs[0].shape[-1]
    if steps is not None and frame > steps:
        raise Infeasible(f"a frame of {frame} steps is longer than the rows of {steps}")


class Layer(nn.Module):
    """One recurrent layer in one or both directions: (B, L, C) -> one (B, L, H) per direction.

    Both outputs are in the order of time.

    Args:
        inputs: Input channels C.
        hidden: Hidden units H of each direction.
        kind: Kind of cell, see `searchkit.nn.recurrent.Recurrent`.
        bidirectional: Whether to add the backward direction.
    """

    def __init__(self, inputs: int, hidden: int, *, kind: str, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = Recurrent(inputs, hidden, kind=kind)
        self.backwards = Recurrent(inputs, hidden, kind=kind) if bidirectional else None

    def forward(self, x_BLC: Tensor, lengths_B: Tensor | None) -> list[Tensor]:
        """Run the layer.

        Args:
            x_BLC: Steps.
            lengths_B: Valid steps of each row, or None if all are valid.
        """
        directions: list[Tensor] = [self.forwards(x_BLC)]
        if self.backwards is not None:
            directions.append(reverse(self.backwards(reverse(x_BLC, lengths_B)), lengths_B))
        return directions
