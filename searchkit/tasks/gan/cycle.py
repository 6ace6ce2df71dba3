"""The way back, and both critics: what a network that restyles pictures is trained against (CycleGAN, Zhu et al. 2017,
arXiv:1703.10593), where no picture of the one set has its like in the other.

A network that has only to please a critic may answer anything that looks right. So a second one, `InverseGenerator`,
learns to restyle the other way, and where a picture went there and back it should be what it was: in both directions,
by the mean absolute difference. Both directions have a critic (`adversary`). The way back belongs to the training, like
the critics: none of them is shipped, and all of them are in its state, which so goes on bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    """(B, C, H, W), in [-1, 1] -> (B, C, H, W) between `least` and `most`, (1, C, 1, 1): convolutions and residual
    blocks (Johnson et al. 2016, arXiv:1603.08155), without batch norm, at a half or a quarter of a large picture's
    side.
    """

    least: Tensor
    most: Tensor

    def __init__(self, shape: tuple[int, int, int], least: Tensor, most: Tensor, *, units: int) -> None:
        super().__init__()
        channels, height, width = shape
        sizes = [(height, width)]
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
        y: Tensor = self.least + (self.most - self.least) * 0.5 * (self.body(x) + 1.0)
        return y


class Residual(nn.Module):
    """(B, C, H, W) -> the same."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(units, units, 3, 1, 1)
        self.second = nn.Conv2d(units, units, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(F.relu(self.first(x)))
        return y


class Cycle:
    """As a `FitPlan.loss`: (network, batch) -> scalar; the batch's inputs are pictures of the one set as the network
    sees them, its target as many of the other, in [-1, 1]. Raises BadInput on an objective that there is not.

    there: what the network's critic learns from: pictures of the other set, and inputs of the one. here: the same with
    the sets exchanged, for the way back.
    """

    def __init__(self, training: Training, there: RealSource, here: RealSource, *, seed: int) -> None:
        self.there = Adversary(training, there, seed=derive_seed(seed, "there"), prefix=PREFIXES["there"], units=UNITS)
        self.here = Adversary(training, here, seed=derive_seed(seed, "here"), prefix=PREFIXES["here"], units=UNITS)
        self.steps = CRITIC_STEPS[self.there.objective]
        scaled = [here.scale(rows) for rows in torch.split(here.raw, ROWS)]
        least = torch.stack([x.amin((0, 2, 3)) for x in scaled]).amin(0).view(1, -1, 1, 1)
        most = torch.stack([x.amax((0, 2, 3)) for x in scaled]).amax(0).view(1, -1, 1, 1)
        self.unit = (0.5 * (most - least)).clamp(min=1e-6)
        _, channels, height, width = scaled[0].shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "back"))
            self.back = InverseGenerator((channels, height, width), least, most, units=UNITS)
        self.back.to(here.raw.device)
        self.optimizer = torch.optim.Adam(
            self.back.parameters(), lr=training.lr, betas=(min(0.5, training.momentum), 0.99)
        )

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """The way back learns from the same backward pass, which is the caller's: its step is made when it is next
        asked for anything.
        """
        self.settle_()
        (a,), b = batch.inputs, batch.target
        as_b, as_a = network(a), self.back(b)
        for _ in range(self.steps - 1):
            self.there.learn_(network)
            self.here.learn_(self.back)
        self.there.critic_step(as_b)
        self.here.critic_step(as_a)
        apart = self._apart(self.back(as_b), a) + F.l1_loss(network(as_a).float(), b)
        return self.there.generator_loss(as_b) + self.here.generator_loss(as_a) + WEIGHT * apart

    def _apart(self, returned: Tensor, a: Tensor) -> Tensor:
        """As if the one set were in [-1, 1] too."""
        return F.l1_loss(returned.float() / self.unit, a / self.unit)

    def settle_(self) -> None:
        """The step of the way back, where there are gradients for one."""
        if any(p.grad is not None for p in self.back.parameters()):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def warm_up_(self, network: nn.Module) -> None:
        """The critics and the way back, against the network as it stands: it may be a trained one, and should follow
        none that knows nothing.
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
        self.settle_()
        own = capture(self.back, self.optimizer, PREFIXES["back"])
        return self.there.capture() | self.here.capture() | own

    def restore_(self, state: TrainState) -> None:
        self.there.restore_(state)
        self.here.restore_(state)
        restore_(self.back, self.optimizer, state.tensors, PREFIXES["back"])
