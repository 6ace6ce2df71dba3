"""Autoencoder with a narrow code, dense or convolutional, optionally variational (VAE).

Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks; VAE: Kingma & Welling 2014,
arXiv:1312.6114. In training the VAE samples the code, and `aux_loss` is the KL divergence from the standard normal
distribution in nats per example; in eval mode the code is its mean.

The convolutional code is a convolution over the whole last map, and the decoder begins with its transpose. Nothing is
reshaped, so pruning can cut any channel, and odd sizes are restored exactly.
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
from searchkit.nn.blocks.layers import activation, features, initialize_


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        widths: Units or channels of the encoder, from the input on; the decoder mirrors them.
        code: Size of the code.
        kind: dense or conv.
        variational: Whether it is a VAE.
        activation: Activation of all layers.
        batch_norm: Whether there is batch norm.
    """

    widths: tuple[int, ...]
    code: int
    kind: str = "dense"
    variational: bool = False
    activation: str = "relu"
    batch_norm: bool = False


class Autoencoder(nn.Module):
    """(B, …) -> (B, …) of the same shape.

    Args:
        encoder: From the input to hidden features.
        to_code: From features to the mean of the code.
        to_spread: From features to the log variance of the code; None without a VAE.
        decoder: From a code to the output.
    """

    def __init__(self, encoder: nn.Module, to_code: nn.Module, to_spread: nn.Module | None, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.to_code = to_code
        self.to_spread = to_spread
        self.decoder = decoder
        self._divergence: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct the input."""
        if self.training and (drawn := self.draw(x)) is not None:
            out, divergence = drawn
            self._divergence = divergence.mean()
        else:
            out = self.decoder(self.to_code(self.encoder(x)))
        return out

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Reconstruct from a sampled code; see `Variational`."""
        if self.to_spread is None:
            return None
        hidden = self.encoder(x)
        mean: Tensor = self.to_code(hidden)
        # Clamped, so that one bad training step cannot overflow the exponential.
        log_variance = self.to_spread(hidden).clamp(-10.0, 10.0)
        nats = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)
        out: Tensor = self.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        return out, nats.flatten(1).sum(1)

    def aux_loss(self) -> Tensor:
        """Return the mean KL divergence of the last batch, in nats per example; 0 without a VAE or in eval mode."""
        divergence, self._divergence = self._divergence, None  # dropped, so that no graph outlives its step
        return next(self.parameters()).new_zeros(()) if divergence is None else divergence


def accepts(spec: DataSpec) -> str | None:
    """Return None for reconstruction of one input of fixed size, else the reason why not."""
    if not spec.reconstructs:
        return "it reconstructs its input; give a reconstruction task (--problem reconstruction)"
    if spec.modality == "tokens" or len(spec.inputs) != 1 or features(spec) is None:
        return "it takes one numeric input of fixed size"
    return None


def _sizes(spec: DataSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.inputs[0].shape if size is not None)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    shape = _sizes(spec)
    n = math.prod(shape)
    kind = trial.suggest_categorical("kind", ["dense", "conv"]) if len(shape) > 1 else "dense"
    # As many halvings as the smallest side allows.
    deepest = 3 if kind == "dense" else max(1, min(3, min(shape[1:]).bit_length() - 1))
    depth = trial.suggest_int("depth", 1, deepest)
    if kind == "dense":
        widths = tuple(8 * trial.suggest_int(f"width_{i}_by_8", 2, 64, log=True) for i in range(depth))
    else:
        widths = tuple(4 * trial.suggest_int(f"channels_{i}_by_4", 2, 16, log=True) for i in range(depth))
    return Arch(
        widths=widths,
        # The size of the code is the search's to find, not pruning's: cutting one from 9 to 6 units took the error from
        # 10.5 to 13.0, so pruning leaves groups of fewer than 16 units whole if it can.
        code=trial.suggest_int("code", min(4, n), max(4, min(64, n // 2)), log=True),
        kind=kind,
        variational=trial.suggest_categorical("variational", [False, True]),
        activation=trial.suggest_categorical("activation", ["relu", "leaky_relu", "gelu"]),
        batch_norm=trial.suggest_categorical("batch_norm", [False, True]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the input is too small for the depth.
    """
    net = _dense(arch, _sizes(spec)) if arch.kind == "dense" else _conv(arch, _sizes(spec))
    initialize_(net, arch.activation)
    if net.to_spread is not None:  # a variance of 1 at the start, which the KL divergence wants anyway
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
    # The code is a convolution over all of the last map: its channels are ordinary ones, which pruning can cut.
    whole: tuple[int, ...] = seen.pop()
    decoder: list[nn.Module] = [back(arch.code, width, whole, bias=not arch.batch_norm), *active(width)]  # type: ignore[arg-type]
    for units in (*reversed(arch.widths[:-1]), channels):
        # A transposed convolution gives 2·ceil(n / 2) − 1 + extra; with extra 0 for odd n and 1 for even n this is n.
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


# int8: transposed convolutions have no fast int8 kernel (measured: static 1.5, dynamic 5 times slower); int8 weights
# with fp32 arithmetic are what pays.
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
