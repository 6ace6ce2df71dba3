"""Cycle consistency: the inverse generator and both critics that image translation trains against.

CycleGAN (Zhu et al. 2017, arXiv:1703.10593), for two sets in which no image is paired with another. A network that has
only to please a critic may answer anything that looks right. So `InverseGenerator` learns the other direction, and an
image that is translated there and back should be what it was, by the mean absolute difference, in both directions. Both
directions have a critic (`adversary`). The inverse and the critics belong to the training: none of them is shipped, and
all of them are in its state, so that it resumes bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.random_state import seeded
from searchkit.core.serialization import derive_seed
from searchkit.core.state import capture, restore_
from searchkit.core.training import Batch, Training, TrainState
from searchkit.tasks.gan import adversary
from searchkit.tasks.gan.adversary import CRITIC_STEPS, Adversary, RealSource

WEIGHT = 10.0
"""Of there and back, as published."""

UNITS = 16
"""Of the way back, and of both critics' first layers: on digits, as good after so many seconds as 32 (measured)."""

BLOCKS = 1

PREFIXES = {"there": "critic.", "here": "back_critic.", "back": "back."}

ROWS = 1024  # scaled at once


class InverseGenerator(nn.Module):
    """Translate images back, by convolutions and residual blocks without batch norm.

    After Johnson et al. 2016, arXiv:1603.08155. Large images are processed at a half or a quarter of their side. The
    output lies between `least` and `most`, (1, C, 1, 1).
    """

    least: Tensor
    most: Tensor

    def __init__(self, shape: tuple[int, int, int], least: Tensor, most: Tensor, *, units: int) -> None:
        super().__init__()
        channels, height, width = shape
        sizes = [(height, width)]
        # Rounded up, as a convolution of stride 2 and padding 1 rounds. Kept for the way up: doubling misses odd sides.
        while max(sizes[-1]) > 16 and min(sizes[-1]) >= 4 and len(sizes) < 3:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        layers: list[nn.Module] = [nn.Conv2d(channels, units, 3, 1, 1), nn.ReLU()]
        for _ in sizes[1:]:
            layers += [nn.Conv2d(units, units, 3, 2, 1), nn.ReLU()]
        layers += [Residual(units) for _ in range(BLOCKS)]
        for size in sizes[-2::-1]:
            layers += [nn.Upsample(size=size), nn.Conv2d(units, units, 3, 1, 1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(units, channels, 3, 1, 1), nn.Tanh())
        self.register_buffer("least", least)
        self.register_buffer("most", most)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to (B, C, H, W)."""
        y: Tensor = self.least + (self.most - self.least) * 0.5 * (self.body(x) + 1.0)
        return y


class Residual(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(units, units, 3, 1, 1)
        self.second = nn.Conv2d(units, units, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y: Tensor = x + self.second(F.relu(self.first(x)))
        return y


class Cycle:
    """A `FitPlan.loss` for unpaired translation: (network, batch) to a scalar.

    The batch's inputs are images of the first set as the network sees them, its target as many of the second, in [-1,
    1].

    Args:
        there: What the network's critic learns from: images of the second set and inputs of the first.
        here: The same with the sets exchanged, for the inverse generator.

    Raises:
        BadInput: The objective is unknown.
    """

    def __init__(self, training: Training, there: RealSource, here: RealSource, *, seed: int) -> None:
        self.there = Adversary(training, there, seed=derive_seed(seed, "there"), prefix=PREFIXES["there"], units=UNITS)
        self.here = Adversary(training, here, seed=derive_seed(seed, "here"), prefix=PREFIXES["here"], units=UNITS)
        self.steps = CRITIC_STEPS[self.there.objective]
        scaled = [here.scale(rows) for rows in torch.split(here.raw, ROWS)]
        # (1, C, 1, 1): the range of the first set as the network sees it, standardized and so not in [-1, 1].
        least = torch.stack([x.amin((0, 2, 3)) for x in scaled]).amin(0).view(1, -1, 1, 1)
        most = torch.stack([x.amax((0, 2, 3)) for x in scaled]).amax(0).view(1, -1, 1, 1)
        # At least 1e-6: a channel that has one value in all images has no range to divide by.
        self.unit = (0.5 * (most - least)).clamp(min=1e-6)
        _, channels, height, width = scaled[0].shape
        # The weights follow from the seed alone, and the caller's random numbers go on as if none had been drawn here.
        with seeded(derive_seed(seed, "back")):
            self.back = InverseGenerator((channels, height, width), least, most, units=UNITS)
        self.back.to(here.raw.device)
        self.optimizer = torch.optim.Adam(
            self.back.parameters(), lr=training.lr, betas=(min(0.5, training.momentum), 0.99)
        )

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of one batch.

        The inverse generator learns from the same backward pass, which is the caller's: its step is taken at the next
        call.
        """
        # First: this batch needs the updated weights, and its gradients must not add to the old ones.
        self.settle_()
        (a,), b = batch.inputs, batch.target
        as_b, as_a = network(a), self.back(b)
        for _ in range(self.steps - 1):
            self.there.learn_(network)
            self.here.learn_(self.back)
        # The last critic step is on the images that the generators' loss needs anyway.
        self.there.critic_step(as_b)
        self.here.critic_step(as_a)
        apart = self._apart(self.back(as_b), a) + F.l1_loss(network(as_a).float(), b)
        return self.there.generator_loss(as_b) + self.here.generator_loss(as_a) + WEIGHT * apart

    def _apart(self, returned: Tensor, a: Tensor) -> Tensor:
        """Mean absolute difference, as if the first set were in [-1, 1] too."""
        return F.l1_loss(returned.float() / self.unit, a / self.unit)

    def settle_(self) -> None:
        """Take the inverse generator's step if it has gradients."""
        if any(p.grad is not None for p in self.back.parameters()):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def warm_up_(self, network: nn.Module) -> None:
        """Train the critics and the inverse generator alone, against the network as it is.

        The network may be a trained one, and should not follow critics that know nothing.
        """
        network.train()
        n = self.there.batch_size
        for _ in range(adversary.WARM_STEPS):
            a, b = self.there.rival.inputs(n), self.here.rival.inputs(n)
            with torch.no_grad():
                as_b = network(a)
            as_a = self.back(b)
            self.there.critic_step(as_b)
            self.here.critic_step(as_a)
            loss = self.here.generator_loss(as_a) + WEIGHT * self._apart(self.back(as_b), a)
            loss.backward()  # type: ignore[no-untyped-call]
            self.settle_()

    # ── the state of a training ─────────────────────────────────────────────────────────────────────────────────────

    def capture(self) -> dict[str, Tensor]:
        """The state of both critics and of the inverse generator as named tensors."""
        self.settle_()
        own = capture(self.back, self.optimizer, PREFIXES["back"])
        return self.there.capture() | self.here.capture() | own

    def restore_(self, state: TrainState) -> None:
        """Restore what `capture` gave."""
        self.there.restore_(state)
        self.here.restore_(state)
        restore_(self.back, self.optimizer, state.tensors, PREFIXES["back"])
