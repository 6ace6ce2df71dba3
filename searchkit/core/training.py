"""How a network is trained: hyperparameters, their ranges, one batch, and the state between two epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """inputs: as `DataSpec.inputs`, in order, on the device. target: what the task's loss wants, e.g. (B, n_classes)
    soft labels, (B, n_targets) standardised values, or the clean input.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; sampled beside its architecture and stored with the artifact."""

    objective: str = ""  # one of the task's own losses by name, where it has several; "" is its first
    optimizer: str = "adamw"  # sgd, momentum, rmsprop, adamw
    momentum: float = 0.9  # of momentum, and of adamw's mean gradient
    lr: float = 2e-3
    schedule: str = "cosine"  # constant, cosine, linear, step
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 0.01  # L2; decoupled for adamw
    l1: float = 0.0  # coefficient of the sum of |weights|
    clip_norm: float = 1.0  # global gradient norm; 0 clips nothing
    batch_size: int = 64
    epochs: int = 20
    augment: tuple[str, ...] = ()  # crop, flip, cutout for images; jitter, scale, shift for series
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution; 0 mixes nothing
    ema: float = 0.0  # decay a step of the averaged weights; 0 averages nothing
    patience: int = 0  # epochs without a better val metric before stopping; 0 never stops early
    pretrain_epochs: int = 0  # on the inputs alone, before the others (see SelfSupervised); 0 for none


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of a few values."""

    values: tuple[JSON, ...]


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number in [low, high]."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A number in [low, high], evenly spread on a logarithmic scale; both are above 0."""

    low: float
    high: float


@dataclass(frozen=True)
class TrainingSpace:
    """Defaults that work, and the fields of Training that the search may vary, by field name."""

    default: Training = field(default_factory=Training)
    ranges: Mapping[str, Categorical | Uniform | LogUniform] = field(default_factory=dict)


@dataclass
class TrainState:
    """Where a training stands at the end of an epoch: enough to go on, bit for bit, in another process.

    tensors: "weights.*", "ema.*", "optimizer.*"; numbers: JSON.
    """

    epoch: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class FitPlan:
    """One call of fit: from the epoch where the state stands to `until`, on a schedule over `training.epochs`."""

    training: Training
    seed: int
    until: int  # epochs
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16
    channels_last: bool = False
    seconds: float = math.inf  # stop at the first step after this, with what there is
    loss: Callable[[nn.Module, Batch], Tensor] | None = None  # None: the task's own loss
    validate: bool = False  # evaluate on val after every epoch, for learning curves and early stopping
    recovers: bool = False  # the network is good already, but for what a stage did to it: there is little to explore


@dataclass(frozen=True)
class Teacher:
    """A network to learn from.

    Attributes:
        network: Gives the answers that the student is to match.
        temperature: Of the softened logits; above 0, higher is softer.
        weight: Of its part in the loss, 0 to 1.
    """

    network: nn.Module
    temperature: float = 2.0
    weight: float = 0.5
