"""Depthwise convolution with kernels of several sizes (MixConv: Tan & Le 2019, arXiv:1907.09595)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured


class MixedDepthwise(Structured):
    """Depthwise convolution with several kernel sizes: (B, C, H, W) -> (B, C, H', W').

    Tan & Le 2019, arXiv:1907.09595 (MixConv). H' = ceil(H / stride), and W' likewise. Each kernel size has a run of
    consecutive channels. Pruning a channel narrows its run; a size that lost all channels keeps an empty weight and
    computes nothing.

    Args:
        width: Channels C, at least one per kernel size.
        kernels: Kernel sizes, odd.
        stride: Stride of all convolutions.

    Raises:
        ValueError: If a kernel size is even, there is none, or there are fewer channels than kernel sizes.
    """

    coupled = True

    def __init__(self, width: int, *, kernels: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
            raise ValueError(f"The kernel sizes {tuple(kernels)} cannot be mixed; give at least one, all odd.")
        if width < len(kernels):
            raise ValueError(
                f"{width} channels cannot be divided among {len(kernels)} kernel sizes; give more channels."
            )
        self.stride = stride
        # ONNX Runtime's fast depthwise kernel takes multiples of 4 channels. Measured, 9×9 on 8×8 pixels: three layers
        # took 392 µs with 22 channels and 23 µs with 24. So every run but the last is a multiple of 4 if it can be.
        block = 4 if width >= 4 * len(kernels) else 1
        share, left = divmod(width // block, len(kernels))
        shares = [block * (share + 1)] * left + [block * share] * (len(kernels) - left)
        shares[-1] += width % block
        self.convs = nn.ModuleList(
            nn.Conv2d(n, n, size, stride, size // 2, groups=n, bias=False)
            for n, size in zip(shares, kernels, strict=True)
        )

    def runs(self) -> list[tuple[nn.Conv2d, int]]:
        """Return the convolution of each kernel size and its current number of channels."""
        return [(conv, conv.weight.shape[0]) for conv in self.convs if isinstance(conv, nn.Conv2d)]

    @property
    def in_channels(self) -> int:
        """Number of channels."""
        return sum(n for _, n in self.runs())

    @property
    def out_channels(self) -> int:
        """Number of channels."""
        return self.in_channels

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the channels, one per kernel size that has channels left."""
        found, first = [], 0
        for conv, n in self.runs():
            if n:
                found.append(Part(conv, "weight", 0, first=first))
            first += n
        return tuple(found)

    def refit_(self) -> None:
        """Update the sizes of the convolutions after a cut."""
        for conv, n in self.runs():
            conv.in_channels = conv.out_channels = conv.groups = n

    def surrogate(self, x: Tensor) -> Tensor:
        """Return zeros with the shape of the output, for tracing."""
        height, width = ((size - 1) // self.stride + 1 for size in x.shape[2:])
        return self.stand_in(x, (x.shape[0], self.out_channels, height, width))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Convolve each run of channels with its kernel size."""
        # torch.split with explicit sizes: torch-pruning cannot follow torch.chunk, and the runs differ after a cut.
        shares = torch.split(x, [n for _, n in self.runs()], 1)
        mixed = [conv(share) for (conv, n), share in zip(self.runs(), shares, strict=True) if n]
        return torch.cat(mixed, 1) if len(mixed) > 1 else mixed[0]
