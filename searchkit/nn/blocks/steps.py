"""The stem and the recurrent layer of the families that read steps: series by overlapping frames, tokens by embedding,
to (B, L, D).

Padding is zeroed before a frame can see it, and lengths are carried over to frames, so that what stands after a row's
end never reaches its answer.
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
    """(B, C, L) -> (B, ceil(L / hop), D), or tokens (B, L) likewise; with the lengths (B,) of the new steps.

    Frame i is centred on step i·hop, and the row's outside counts as zeros. Tokens are embedded, `embedded` wide; a
    frame of one of them, where that is the width too, is its embedding. dropout: of embedded tokens. In training L is
    the length of the longest row.
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
            nn.init.normal_(self.embedding.weight, std=channels**-0.5)
        assert channels is not None
        plain = self.embedding is not None and frame == hop == 1 and channels == width
        self.conv = None if plain else nn.Conv1d(channels, width, frame, hop, frame // 2)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.training:
            x = trim(x, lengths_B)
        if self.embedding is not None:
            embedded_BLD = self.dropout(self.embedding(x))
            if self.conv is None:
                return embedded_BLD, lengths_B
            x = embedded_BLD.transpose(1, 2)
        assert self.conv is not None
        if lengths_B is not None:
            x = x * valid_steps(x.transpose(1, 2), lengths_B)[:, None, :].to(x.dtype)
            lengths_B = torch.div(lengths_B + (self.hop - 1), self.hop, rounding_mode="floor")
        return self.relu(self.conv(x)).transpose(1, 2), lengths_B


def accepts(spec: DataSpec) -> str | None:
    if spec.modality not in ("series", "tokens"):
        return "it reads steps: series (channels, steps) or tokens"
    return None if spec.forecasts else plain_answer(spec)


def check_stem(spec: DataSpec, frame: int) -> None:
    """Raises Infeasible where a frame is longer than the rows."""
    steps = spec.inputs[0].shape[-1]
    if steps is not None and frame > steps:
        raise Infeasible(f"a frame of {frame} steps is longer than the rows of {steps}")


class Layer(nn.Module):
    """One recurrent layer in one direction or both: (B, L, C) -> the steps of each direction, (B, L, H), in the order
    of time.
    """

    def __init__(self, inputs: int, hidden: int, *, kind: str, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = Recurrent(inputs, hidden, kind=kind)
        self.backwards = Recurrent(inputs, hidden, kind=kind) if bidirectional else None

    def forward(self, x_BLC: Tensor, lengths_B: Tensor | None) -> list[Tensor]:
        directions: list[Tensor] = [self.forwards(x_BLC)]
        if self.backwards is not None:
            directions.append(reverse(self.backwards(reverse(x_BLC, lengths_B)), lengths_B))
        return directions
