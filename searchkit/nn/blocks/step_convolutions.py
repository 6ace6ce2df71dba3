"""Convolutions that turn data into steps for a recurrent network or Transformer.

They end in a convolution over everything besides the steps. Nothing is reshaped, so pruning can cut the channels
between the two halves of a hybrid network. Padding never affects a valid step.

Axes: B batch, C channel, L step of the input, W what a step has besides channels, T step of the output, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.nn.sequence import valid_steps


class Reader(nn.Module):
    """Data to (B, C, L) or (B, C, L, W), with padding set to 0.

    Tokens are embedded, the channels of a planar series become W, and images and clips stay as they are.

    Args:
        spec: The data.
        width: Width of the token embedding.
        planar: Whether the channels of a series are an axis to convolve over, as for a spectrogram.
    """

    def __init__(self, spec: DataSpec, width: int, *, planar: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.vocabulary, width) if spec.modality == "tokens" else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.planar = planar

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Read the data; lengths_B has the valid steps of each row, or is None."""
        if self.embedding is not None:
            x = self.embedding(x).transpose(1, 2)
        x = _blanked(x, lengths_B)
        return x.transpose(1, 2).unsqueeze(1) if self.planar else x


def _blanked(x: Tensor, lengths_B: Tensor | None) -> Tensor:
    """(B, C, L) or (B, C, L, W) with padding set to 0, so that no convolution sees it."""
    if lengths_B is None:
        return x
    keep = valid_steps(x.transpose(1, 2), lengths_B)[:, None, :].to(x.dtype)
    return x * (keep if x.ndim == 3 else keep[..., None])


def _every(lengths_B: Tensor | None, hop: int) -> Tensor | None:
    """How many of the steps 0, hop, 2·hop, … are valid."""
    return None if lengths_B is None else torch.div(lengths_B + (hop - 1), hop, rounding_mode="floor")


class StepConvolutions(nn.Module):
    """Convolutions that keep the axis of steps: (B, C, L) or (B, C, L, W) -> (B, T, D).

    Args:
        stages: Convolutions, one after the other.
        strides: Stride of each along the steps.
        fold: A convolution over what is left besides the steps.
    """

    def __init__(self, stages: Sequence[nn.Module], strides: Sequence[int], fold: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.strides = tuple(strides)
        self.fold = fold
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the steps, and how many are valid."""
        for stage, stride in zip(self.stages, self.strides, strict=True):
            lengths_B = _every(lengths_B, stride)
            x = _blanked(stage(x), lengths_B)  # after each: a bias or batch norm makes padding nonzero again
        return self.relu(self.fold(x)).flatten(2).transpose(1, 2), lengths_B


class FrameConvolutions(nn.Module):
    """The same convolutions for each frame: a clip (B, C, T, H, W), or windows of (B, C, L[, W]) -> (B, T, D).

    Window i is centered on step i·hop, where hop is half a window; steps outside the row count as zeros.

    Args:
        stages: Convolutions over a frame.
        fold: A convolution over what they leave of a frame.
        window: Steps of a window; 0 for a clip, which has frames.
    """

    def __init__(self, stages: Sequence[nn.Module], fold: nn.Module, *, window: int) -> None:
        super().__init__()
        self.window, self.hop = window, (window + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.fold = fold
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the frames, and how many are valid."""
        if self.window:
            x, lengths_B = self.windows(x), _every(lengths_B, self.hop)
        frames = x.transpose(1, 2)
        answers: Tensor = self.relu(self.fold(self.stages(frames.flatten(0, 1)))).flatten(1)
        return answers.view(frames.shape[0], frames.shape[1], -1), lengths_B

    def windows(self, x: Tensor) -> Tensor:
        """Cut a series into windows that overlap by half: (B, C, L, …) -> (B, C, T, window, …)."""
        # By indices, not Tensor.unfold: the number of steps stays dynamic in the exported graph.
        starts = torch.arange((x.shape[2] + self.hop - 1) // self.hop, device=x.device) * self.hop
        before = (self.window - self.hop) // 2
        padded = F.pad(x, [0, 0] * (x.ndim - 3) + [before, self.window])
        return padded[:, :, starts[:, None] + torch.arange(self.window, device=x.device)]


class PlainSteps(nn.Module):
    """Every `hop`-th step with its neighbors: (B, C, L) or (B, C, L, W) -> (B, T, D).

    Args:
        inputs: Numbers of a step.
        width: Width D.
        kernel: Steps that are seen.
        hop: Steps from one to the next.
    """

    def __init__(self, inputs: int, width: int, *, kernel: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.conv = nn.Conv1d(inputs, width, kernel, hop, kernel // 2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the steps, and how many are valid."""
        if x.ndim == 4:
            x = x.transpose(1, 2).flatten(2).transpose(1, 2)
        return self.relu(self.conv(x)).transpose(1, 2), _every(lengths_B, self.hop)
