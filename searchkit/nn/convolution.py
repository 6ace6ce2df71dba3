"""Depthwise convolution with kernels of several sizes (MixConv: Tan & Le 2019, arXiv:1907.09595)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured


class MixedDepthwise(Structured):
    """A depthwise convolution with kernels of several sizes: (B, C, H, W) -> (B, C, ceil(H / stride), and W likewise).
    Tan & Le, 2019, arXiv:1907.09595 (MixConv).

    Each size has a run of consecutive channels, all as wide as multiples of four allow, which is what ONNX Runtime's
    quick depthwise kernels take; of any number where there are too few channels for that. Cutting a channel narrows the
    run that it lies in. A size whose last channel went keeps a weight of no elements and computes nothing.
    """

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
