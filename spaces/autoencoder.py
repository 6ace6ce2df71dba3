"""Autoencoder: a narrow code in the middle, dense or convolutional, with a variational bottleneck as a choice.

Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks; the variational one is Kingma &
Welling 2014, arXiv:1312.6114: in training the code is drawn around its mean and `penalty` is the divergence from the
unit Gaussian in nats an example; in eval the code is the mean.

The convolutional code is a convolution over the whole last map, and the decoder starts with its transpose: nothing is
reshaped, so that channels can be cut anywhere and odd sizes come back exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.layers import activation, features, initialise_


@dataclass(frozen=True)
class Arch:
    """kind: dense or conv. widths: units, or channels, of the encoder from the input on; the decoder mirrors them.
    code: numbers in the middle.
    """

    widths: tuple[int, ...]
    code: int
    kind: str = "dense"
    variational: bool = False
    activation: str = "relu"
    batch_norm: bool = False


class Autoencoder(nn.Module):
    """(B, …) -> (B, …), the same shape. `to_code` gives the mean of a code, `to_spread` its log variance."""

    def __init__(self, encoder: nn.Module, to_code: nn.Module, to_spread: nn.Module | None, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.to_code = to_code
        self.to_spread = to_spread
        self.decoder = decoder
        self._divergence: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training and (drawn := self.draw(x)) is not None:
            out, divergence = drawn
            self._divergence = divergence.mean()
        else:
            out = self.decoder(self.to_code(self.encoder(x)))
        return out

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """See `types.Variational`. (B, …) from a code that is drawn around its mean, and (B,) nats."""
        if self.to_spread is None:
            return None
        hidden = self.encoder(x)
        mean: Tensor = self.to_code(hidden)
        # bounded, so that one wild step cannot overflow the exponential
        log_variance = self.to_spread(hidden).clamp(-10.0, 10.0)
        nats = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)
        out: Tensor = self.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        return out, nats.flatten(1).sum(1)

    def aux_loss(self) -> Tensor:
        """The divergence in nats an example, the mean over the batch of the last forward pass; 0 where the code is not
        variational or was not drawn.
        """
        divergence, self._divergence = self._divergence, None
        return next(self.parameters()).new_zeros(()) if divergence is None else divergence


def accepts(spec: DataSpec) -> str | None:
    if not spec.reconstructs:
        return "it rebuilds its input; give it a reconstruction task (--problem reconstruction)"
    if spec.modality == "tokens" or len(spec.inputs) != 1 or features(spec) is None:
        return "it takes one input of numbers of fixed size"
    return None


def _sizes(spec: DataSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.inputs[0].shape if size is not None)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    shape = _sizes(spec)
    n = math.prod(shape)
    kind = trial.suggest_categorical("kind", ["dense", "conv"]) if len(shape) > 1 else "dense"
    deepest = 3 if kind == "dense" else max(1, min(3, min(shape[1:]).bit_length() - 1))
    depth = trial.suggest_int("depth", 1, deepest)
    if kind == "dense":
        widths = tuple(8 * trial.suggest_int(f"width_{i}_by_8", 2, 64, log=True) for i in range(depth))
    else:
        widths = tuple(4 * trial.suggest_int(f"channels_{i}_by_4", 2, 16, log=True) for i in range(depth))
    return Arch(
        widths=widths,
        code=trial.suggest_int("code", min(4, n), max(4, min(64, n // 2)), log=True),
        kind=kind,
        variational=trial.suggest_categorical("variational", [False, True]),
        activation=trial.suggest_categorical("activation", ["relu", "leaky_relu", "gelu"]),
        batch_norm=trial.suggest_categorical("batch_norm", [False, True]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Raises Infeasible where the input is too small for the depth."""
    net = _dense(arch, _sizes(spec)) if arch.kind == "dense" else _conv(arch, _sizes(spec))
    initialise_(net, arch.activation)
    if net.to_spread is not None:  # a spread near 1 from the start
        nn.init.zeros_(net.to_spread.weight)  # type: ignore[arg-type]
    return net


def _dense(arch: Arch, shape: tuple[int, ...]) -> Autoencoder:
    n = math.prod(shape)

    def layers(sizes: tuple[int, ...]) -> list[nn.Module]:
        made: list[nn.Module] = []
        for inputs, units in zip(sizes[:-1], sizes[1:], strict=True):
            made.append(nn.Linear(inputs, units, bias=not arch.batch_norm))
            if arch.batch_norm:
                made.append(nn.BatchNorm1d(units))
            made.append(activation(arch.activation))
        return made

    last = arch.widths[-1]
    decoder = layers((arch.code, *reversed(arch.widths)))
    return Autoencoder(
        nn.Sequential(nn.Flatten(), *layers((n, *arch.widths))),
        nn.Linear(last, arch.code),
        nn.Linear(last, arch.code) if arch.variational else None,
        nn.Sequential(*decoder, nn.Linear(arch.widths[0], n), nn.Unflatten(1, shape)),
    )


def _conv(arch: Arch, shape: tuple[int, ...]) -> Autoencoder:
    channels, sizes = shape[0], shape[1:]
    picture = len(sizes) == 2
    conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv2d if picture else nn.Conv1d
    back: type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] = nn.ConvTranspose2d if picture else nn.ConvTranspose1d
    norm: type[nn.BatchNorm1d] | type[nn.BatchNorm2d] = nn.BatchNorm2d if picture else nn.BatchNorm1d

    def active(width: int) -> list[nn.Module]:
        return [*([norm(width)] if arch.batch_norm else []), activation(arch.activation)]

    encoder: list[nn.Module] = []
    seen = [sizes]  # the size before each halving, for the way back
    width = channels
    for units in arch.widths:
        if max(seen[-1]) < 2:
            raise Infeasible(f"an input of {sizes} cannot be halved {len(arch.widths)} times")
        encoder += [conv(width, units, 3, 2, 1, bias=not arch.batch_norm), *active(units)]
        seen.append(tuple((size + 1) // 2 for size in seen[-1]))
        width = units
    whole: tuple[int, ...] = seen.pop()
    decoder: list[nn.Module] = [back(arch.code, width, whole, bias=not arch.batch_norm), *active(width)]  # type: ignore[arg-type]
    for units in (*reversed(arch.widths[:-1]), channels):
        # 2·ceil(n/2) - 1 + extra is n exactly: extra is 0 for odd n and 1 for even n
        extra = tuple((size + 1) % 2 for size in seen.pop())
        last = not seen
        decoder.append(back(width, units, 3, 2, 1, extra, bias=last or not arch.batch_norm))  # type: ignore[arg-type]
        if not last:
            decoder += active(units)
        width = units

    def to_code() -> nn.Module:
        return conv(arch.widths[-1], arch.code, whole)  # type: ignore[arg-type]

    return Autoencoder(
        nn.Sequential(*encoder), to_code(), to_code() if arch.variational else None, nn.Sequential(*decoder)
    )


SPACE = Space(
    name="autoencoder",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=3e-3, epochs=40, batch_size=32, weight_decay=1e-4, ema=0.98),
        ranges={
            "lr": LogUniform(1e-3, 1e-2),
            "optimizer": Categorical(("adamw", "rmsprop")),
            "schedule": Categorical(("cosine", "linear")),
            "weight_decay": LogUniform(1e-6, 1e-2),
            "batch_size": Categorical((16, 32, 64)),
        },
    ),
    task="digits-reconstruction",
    budget=Budget(trials=18, epochs=40, rungs=3, eta=3),
    paper="Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks",
    points={"deep-autoencoder": Arch(widths=(1000, 500, 250), code=30, activation="sigmoid")},
)
