"""How a network is trained: settings, their ranges, one batch, and the state between two epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from searchkit.core.serialization import JSON
from searchkit.core.typed import OneOf, Range

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of training data.

    Attributes:
        inputs: Model inputs in the order of `DataSpec.inputs`, on the device.
        target: What the task's loss takes, e.g. soft labels (B, n_classes), standardized values (B, n_targets), or the
            clean input.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor


@dataclass(frozen=True, slots=True)
class Training:
    """The training settings; sampled with the architecture and stored with the artifact."""

    objective: str = ""  # name of one of the task's losses if it has several; "" is the first
    optimizer: Annotated[str, OneOf(("sgd", "momentum", "rmsprop", "adamw"))] = "adamw"  # sgd, momentum, rmsprop, adamw
    momentum: Annotated[float, Range(0, 1)] = 0.9  # of the momentum optimizer, and beta1 of adamw
    lr: Annotated[float, Range(0, open=True)] = 2e-3  # peak learning rate
    # constant, cosine, linear, step
    schedule: Annotated[str, OneOf(("constant", "cosine", "linear", "step"))] = "cosine"
    warmup: Annotated[float, Range(0, 1)] = 0.05  # share of all steps
    weight_decay: Annotated[float, Range(0)] = 0.01  # L2; decoupled for adamw
    l1: Annotated[float, Range(0)] = 0.0  # coefficient of the sum of absolute weights
    clip_norm: Annotated[float, Range(0)] = 1.0  # largest global gradient norm; 0 disables clipping
    batch_size: Annotated[int, Range(1)] = 64
    epochs: Annotated[int, Range(1)] = 20
    augment: tuple[str, ...] = ()  # crop, flip, cutout for images; jitter, scale, shift for series
    label_smoothing: Annotated[float, Range(0, 1)] = 0.0
    mixup: Annotated[float, Range(0)] = 0.0  # alpha of the Beta distribution; 0 disables mixup
    ema: Annotated[float, Range(0, 1)] = 0.0  # decay per step of the averaged weights; 0 disables averaging
    # epochs without a better val metric before stopping; 0 disables early stopping
    patience: Annotated[int, Range(0)] = 0
    # epochs of self-supervised pre-training (see SelfSupervised); 0 disables it
    pretrain_epochs: Annotated[int, Range(0)] = 0


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of a few values."""

    values: tuple[JSON, ...]


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number in [low, high], uniformly distributed."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A number in [low, high], uniformly distributed on a logarithmic scale; both bounds are above 0."""

    low: float
    high: float


@dataclass(frozen=True)
class TrainingSpace:
    """The default training settings, and the fields that the search varies.

    Attributes:
        default: Settings that work without tuning.
        ranges: Range by name of a field of `Training`.
    """

    default: Training = field(default_factory=Training)
    ranges: Mapping[str, Categorical | Uniform | LogUniform] = field(default_factory=dict)


@dataclass
class TrainState:
    """The state of a training at the end of an epoch.

    It is enough to continue bit for bit in another process.

    Attributes:
        epoch: Completed epochs.
        tensors: Tensors by name, with the prefixes "weights.", "ema." and "optimizer.".
        numbers: Everything else, as JSON.
    """

    epoch: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class FitPlan:
    """One call of `fit`: train from the state's epoch to `until`, on a schedule over `training.epochs`."""

    training: Training
    seed: int
    until: int  # epoch at which this call ends
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16
    channels_last: bool = False
    seconds: float = math.inf  # stop at the first step after this many seconds
    loss: Callable[[nn.Module, Batch], Tensor] | None = None  # None: the task's own loss
    fills: bool = False  # the schedule ends with `seconds` if those end before `training.epochs` do
    validate: bool = False  # evaluate on val after every epoch, for learning curves and early stopping
    recovers: bool = False  # fine-tuning after a stage: the network is good already, so explore little


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
