"""Features to compare images in: those of a small classifier that is trained here on the train split.

It is trained with a fixed seed on one thread, so that the same data give the same features; nothing is downloaded. If
the images have no classes it learns how they were rotated (Gidaris et al. 2018, arXiv:1803.07728), or mirrored if they
are not square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.random_state import seeded
from searchkit.core.threads import torch_threads

FEATURES = 32
STEPS = 1200
EPOCHS = 24  # at most
BATCH = 64
LR = 3e-3
ROWS = 1024  # seen at once without training


class Perception(nn.Module):
    """A small convolutional classifier whose last hidden layer gives the features."""

    spread: Tensor

    def __init__(self, channels: int, height: int, width: int, n_classes: int) -> None:
        super().__init__()
        large = max(height, width) > 16
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 2 if large else 1, 1), nn.ReLU()]
        height, width = ((side + 1) // 2 if large else side for side in (height, width))
        while not isinstance(layers[-1], nn.Flatten):
            before = 16 if len(layers) == 2 else 32
            layers += [nn.Conv2d(before, 32, 3, 2, 1), nn.ReLU()]
            height, width = (height + 1) // 2, (width + 1) // 2
            if max(height, width) <= 8:
                layers.append(nn.Flatten())
        self.see = nn.Sequential(*layers, nn.Linear(32 * height * width, FEATURES))
        self.head = nn.Linear(FEATURES, n_classes)
        self.register_buffer("spread", torch.ones(()))  # of the features of train: root of their total variance

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to (B, FEATURES)."""
        out: Tensor = self.see(x) / self.spread
        return out

    def classify(self, x: Tensor) -> Tensor:
        """Logits of the classes that it was trained on."""
        out: Tensor = self.head(F.relu(self.see(x)))
        return out


def train(pictures: Tensor, classes: np.ndarray | None) -> Perception:
    """Train the feature network.

    Args:
        pictures: (n, C, H, W) training images in [-1, 1].
        classes: (n,) int64 classes; None to learn rotations.

    Returns:
        The network in eval mode. Its features of `pictures` have a total variance of 1, so that repeating one image has
        a Fréchet distance of about 1 or more.
    """
    x, y = (pictures, torch.from_numpy(classes)) if classes is not None else turned(pictures)
    steps = min(STEPS, math.ceil(EPOCHS * len(x) / BATCH))
    with _alone():
        _, channels, height, width = x.shape
        net = Perception(channels, height, width, n_classes=int(y.max()) + 1)
        optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
        # Whole epochs, one shuffled order after another; what is more than `steps` batches is not used (strict=False).
        order = torch.cat([torch.randperm(len(x)) for _ in range(math.ceil(steps * BATCH / len(x)))])
        for step, rows in zip(range(steps), torch.split(order, BATCH), strict=False):
            optimizer.param_groups[0]["lr"] = LR * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            loss = F.cross_entropy(net.classify(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        net.eval().requires_grad_(False)
        # Measured while `spread` is still 1, since `features` divides by it.
        seen = torch.from_numpy(features(net, pictures))
        net.spread.copy_(seen.var(0, correction=0).sum().sqrt())
    return net


@torch.no_grad()
def features(net: Perception, pictures: Tensor) -> np.ndarray:
    """Features of images: (n, C, H, W) in [-1, 1] to (n, FEATURES) float32."""
    return np.concatenate([net(rows).numpy() for rows in torch.split(pictures, ROWS)])


def turned(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Each image in four orientations with the orientation's index: quarter turns, or mirrored if it is not square."""
    height, width = pictures.shape[2:]
    if height == width:
        ways = [torch.rot90(pictures, quarter, (2, 3)) for quarter in range(4)]
    else:
        ways = [pictures, pictures.flip(2), pictures.flip(3), pictures.flip(2, 3)]
    return torch.cat(ways), torch.arange(4).repeat_interleave(len(pictures))


@contextmanager
def _alone() -> Iterator[None]:
    """Run on one thread with separate random numbers: the last bits of a sum depend on how it is split."""
    # The features may first be asked for inside no_grad, where nothing can be trained.
    with torch_threads(1), seeded(0), torch.enable_grad():
        yield
