"""The critic that a generator is trained against (Goodfellow et al. 2014, arXiv:1406.2661).

It is the generator's loss, and learns each time that it is asked for one. Objectives: "minimax", in its non-saturating
form; "wasserstein", with the gradient penalty of Gulrajani et al. 2017, arXiv:1704.00028; and "least-squares" (Mao et
al. 2017, arXiv:1611.04076). All random numbers come from torch's generator, which the loop seeds for each epoch, and
the critic's whole state is part of the training's, so that training resumes bit for bit at the end of any epoch.

A critic soon memorizes few images, so it sees all of them shifted, generated ones too (Zhao et al. 2020,
arXiv:2006.10738). It is discarded when the generator is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from searchkit.core.errors import BadInput
from searchkit.core.random_state import seeded
from searchkit.core.state import capture, restore_
from searchkit.core.training import Batch, Training, TrainState

PENALTY = 10.0
"""Of the gradient's norm, as published."""

CRITIC_STEPS = {"minimax": 1, "wasserstein": 3, "least-squares": 1}
"""Of the critic for each of the generator. Gulrajani et al. take 5; 3 with twice the rate cost less time."""

OBJECTIVES = tuple(CRITIC_STEPS)

UNITS = 32
"""Of the critic's first layer; each that halves the picture has twice as many, up to 128."""

RATE = 2.0
"""Times the generator's learning rate (two time-scales: Heusel et al. 2017, arXiv:1706.08500)."""

WARM_STEPS = 40
"""Of a new critic alone: the generator may be a trained one, and should not follow a critic that knows nothing."""

PREFIX = "critic."


class Critic(nn.Module):
    """Strided convolutions to one score for each image.

    There is no batch norm, since the gradient penalty is meant for scores of single examples (Gulrajani et al. 2017,
    section 4); spectral norm (Miyato et al. 2018, arXiv:1802.05957) bounds the slope if no penalty does. By one number
    a score does depend on its whole batch: the last layer also sees how much the batch varies (Karras et al. 2018,
    arXiv:1710.10196, section 3).
    """

    def __init__(self, channels: int, height: int, width: int, *, is_bounded: bool, units: int) -> None:
        super().__init__()

        def bounded(layer: nn.Module) -> nn.Module:
            return spectral_norm(layer) if is_bounded else layer

        layers: list[nn.Module] = [bounded(nn.Conv2d(channels, units, 3, 1, 1)), nn.LeakyReLU(0.2)]
        # A kernel of 4 with padding 1 needs two pixels: a side of 1 cannot be halved.
        while max(height, width) > 4 and min(height, width) > 1:
            layers += [bounded(nn.Conv2d(units, min(128, 2 * units), 4, 2, 1)), nn.LeakyReLU(0.2)]
            height, width, units = height // 2, width // 2, min(128, 2 * units)
        self.body = nn.Sequential(*layers)
        self.last = bounded(nn.Conv2d(units + 1, units, 3, 1, 1))
        self.head = bounded(nn.Linear(units * height * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 1)."""
        y = self.body(x)
        # correction=0: the unbiased variance of a batch of one is NaN. 1e-8: the slope of √x at 0 is infinite.
        varies = (y.var(0, correction=0) + 1e-8).sqrt().mean()
        y = torch.cat([y, varies.expand(len(y), 1, *y.shape[2:])], 1)
        out: Tensor = self.head(F.leaky_relu(self.last(y), 0.2).flatten(1))
        return out


@dataclass(frozen=True)
class RealSource:
    """Real images for the critic, and random inputs for the generator.

    Attributes:
        raw: (n, …) training images as stored.
        scale: Raw images to (B, C, H, W) around [-1, 1].
        inputs: Draws so many inputs of the generator with torch's generator.
    """

    raw: Tensor
    scale: Callable[[Tensor], Tensor]
    inputs: Callable[[int], Tensor]

    def real(self, n: int) -> Tensor:
        """Draw n real images, scaled."""
        return self.scale(self.raw[torch.randint(len(self.raw), (n,), device=self.raw.device)])


class Adversary:
    """A `FitPlan.loss` with a critic: (generator, batch) to a scalar."""

    def __init__(
        self, training: Training, rival: RealSource, *, seed: int, prefix: str = PREFIX, units: int | None = None
    ) -> None:
        """Make a critic.

        Args:
            training: Objective, learning rate and seed of the training.
            rival: Where real images and generator inputs come from.
            seed: Seed of the critic's weights.
            prefix: Prefix of the critic's tensors in the training's state.
            units: Channels of the critic's first layer; None for UNITS.

        Raises:
            BadInput: The objective is unknown.
        """
        self.prefix = prefix
        self.objective = training.objective or OBJECTIVES[0]
        if self.objective not in OBJECTIVES:
            raise BadInput(
                f"No objective named '{self.objective}' for generation; the objectives are {', '.join(OBJECTIVES)}."
            )
        self.rival, self.batch_size = rival, training.batch_size
        # The weights follow from the seed alone, and the caller's random numbers go on as if none had been drawn here.
        with seeded(seed):
            _, channels, height, width = rival.scale(rival.raw[:1]).shape
            bounded = self.objective != "wasserstein"
            self.critic = Critic(channels, height, width, is_bounded=bounded, units=units or UNITS)
        self.critic.to(rival.raw.device)
        self.optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=RATE * training.lr, betas=(min(0.5, training.momentum), 0.99)
        )

    def __call__(self, generator: nn.Module, batch: Batch) -> Tensor:
        """The generator's loss on a batch; the critic takes its steps first."""
        for _ in range(CRITIC_STEPS[self.objective]):
            self.learn_(generator)
        return self.generator_loss(generator(*batch.inputs))

    def generator_loss(self, drawn: Tensor) -> Tensor:
        """The generator's loss, a scalar: how clearly the critic tells (B, C, H, W) generated images from real ones."""
        # Gradients go through the critic to the images, not to its weights. The forward pass records what needs them,
        # so the weights can be switched on again before the backward pass.
        self.critic.requires_grad_(False)
        value = self._ask(drawn)
        self.critic.requires_grad_(True)
        match self.objective:
            case "minimax":
                return F.softplus(-value).mean()
            case "wasserstein":
                return -value.mean()
        return 0.5 * (value - 1.0).square().mean()

    def warm_up_(self, generator: nn.Module) -> None:
        """Train the critic alone for a while, against the generator as it is."""
        generator.train()
        for _ in range(WARM_STEPS):
            self.learn_(generator)

    def learn_(self, generator: nn.Module) -> None:
        """Take one critic step on new real images and new inputs."""
        with torch.no_grad():
            drawn = generator(self.rival.inputs(self.batch_size))
        self.critic_step(drawn)

    def critic_step(self, drawn: Tensor) -> None:
        """Take one critic step on new real images and these generated ones."""
        real = self.rival.real(len(drawn))
        # The training loop asks for the loss inside autocast; the critic computes in fp32 even so.
        with torch.autocast(real.device.type, enabled=False):
            loss = self._loss(real, drawn.detach().float().contiguous())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _loss(self, real: Tensor, drawn: Tensor) -> Tensor:
        of_real, of_drawn = self._ask(real), self._ask(drawn)
        match self.objective:
            case "minimax":
                return F.softplus(-of_real).mean() + F.softplus(of_drawn).mean()
            case "wasserstein":
                return of_drawn.mean() - of_real.mean() + PENALTY * self._steepness(real, drawn)
        return 0.5 * ((of_real - 1.0).square().mean() + of_drawn.square().mean())

    def _ask(self, pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, enabled=False):
            value: Tensor = self.critic(shifted(pictures.float().contiguous()))
        return value

    def _steepness(self, real: Tensor, drawn: Tensor) -> Tensor:
        """Gradient penalty: the mean of (|gradient| − 1)² at points between pairs of real and generated images."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = (share * real + (1.0 - share) * drawn).requires_grad_(True)
        # create_graph: the penalty is a function of this gradient, and is differentiated once more.
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        steepness: Tensor = (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1.0).square().mean()
        return steepness

    # ── the state of a training ─────────────────────────────────────────────────────────────────────────────────────

    def capture(self) -> dict[str, Tensor]:
        """The critic's state as named tensors."""
        return capture(self.critic, self.optimizer, self.prefix)

    def restore_(self, state: TrainState) -> None:
        """Restore what `capture` gave."""
        restore_(self.critic, self.optimizer, state.tensors, self.prefix)


def shifted(x_BCHW: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its side in both directions; the edge is repeated."""
    n, _, height, width = x_BCHW.shape
    for axis, side in ((2, height), (3, width)):
        reach = max(1, side // 8)
        move = torch.randint(-reach, reach + 1, (n, 1), device=x_BCHW.device)
        index = (torch.arange(side, device=x_BCHW.device) + move).clamp(0, side - 1)
        shape = (n, 1, side, 1) if axis == 2 else (n, 1, 1, side)
        x_BCHW = x_BCHW.gather(axis, index.view(shape).expand_as(x_BCHW))
    return x_BCHW


def energy_distance(drawn: Tensor, real: Tensor) -> Tensor:
    """Energy distance of two batches: 2 E|x − y| − E|x − x'| − E|y − y'|, unbiased.

    Distances are root mean squares over values; the result is 0 if both have one distribution (Székely & Rizzo 2013;
    for generators Bellemare et al. 2017, arXiv:1705.10743). It is a loss without a critic.

    Args:
        drawn: (B, …) generated examples.
        real: (B, …) real examples.
    """
    x, y = drawn.flatten(1), real.flatten(1)
    return 2.0 * _apart(x, y).mean() - _within(x) - _within(y)


def _within(x: Tensor) -> Tensor:
    """Mean distance of two different rows; 0 if there is one row."""
    n = len(x)
    others = 1.0 - torch.eye(n, device=x.device)
    return (_apart(x, x) * others).sum() / max(1, n * (n - 1))


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) root mean square differences, with a finite gradient at 0."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.T
    # Rounding can make |x|² + |y|² − 2 x·y of equal rows negative.
    return (squares.clamp(min=0.0) / x.shape[1] + 1e-8).sqrt()
