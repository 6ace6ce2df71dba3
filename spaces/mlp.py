"""Multilayer perceptron: from logistic regression (no hidden layer) to deep networks with shortcuts.

Inputs of fixed size are flattened. A residual layer adds its input, with a projection if the width changes (He et al.
2016, arXiv:1512.03385). Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.forecaster import forecaster, sample_apart, sample_direct, sample_level
from searchkit.nn.blocks.layers import activation, features, initialize_, initialize_head_, n_outputs, plain_answer


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        widths: Units of each hidden layer; empty for a perceptron.
        activation: Activation after each hidden layer.
        batch_norm: Whether each hidden layer has batch norm.
        dropout: Dropout after each hidden layer.
        residual: Whether hidden layers after the first have a shortcut.
        apart: For forecasts, see `searchkit.nn.blocks.forecaster`.
        direct: For forecasts.
        level: For forecasts.
    """

    widths: tuple[int, ...] = ()
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    residual: bool = False
    apart: bool = False
    direct: bool = False
    level: bool = False


class Layer(nn.Module):
    """Linear, batch norm, activation, dropout: (B, in) -> (B, out), with an optional shortcut around them."""

    def __init__(
        self, inputs: int, width: int, *, nonlinearity: str, batch_norm: bool, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width, bias=not batch_norm)  # batch norm has its own shift
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.activation = activation(nonlinearity)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.shortcut: nn.Module | None = None
        if residual:
            self.shortcut = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        y: Tensor = self.dropout(self.activation(self.norm(self.linear(x))))
        return y if self.shortcut is None else y + self.shortcut(x)


def accepts(spec: DataSpec) -> str | None:
    """Return None for one input of fixed size with a vector or forecast as output, else the reason why not."""
    if spec.modality == "tokens":
        return "it takes numbers, not tokens; take rnn or transformer"
    if len(spec.inputs) != 1 or features(spec) is None:
        return "it takes one input of fixed size; take rnn or transformer for rows of different lengths"
    return None if spec.forecasts else plain_answer(spec)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    # The search begins with the middle of each range and list (the first of two), so their order is a choice: the
    # middle is what works without tuning.
    depth = trial.suggest_int("depth", 0, 4)
    apart, direct, level = sample_apart(trial, spec), sample_direct(trial, spec), sample_level(trial, spec)
    # A perceptron has no other parameters. Asking for them would make trials differ that build the same network.
    if depth == 0:
        return Arch(apart=apart, direct=direct, level=level)
    widths = tuple(8 * trial.suggest_int(f"width_{i}_by_8", 4, 64, log=True) for i in range(depth))
    return Arch(
        widths=widths,
        activation=trial.suggest_categorical("activation", ["leaky_relu", "gelu", "relu", "tanh", "sigmoid"]),
        batch_norm=trial.suggest_categorical("batch_norm", [True, False]),
        dropout=trial.suggest_categorical("dropout", [0.1, 0.0, 0.2]),
        residual=trial.suggest_categorical("residual", [False, True]) if depth > 1 else False,
        apart=apart,
        direct=direct,
        level=level,
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network."""
    if spec.forecasts:
        return forecaster(
            spec, lambda inner: build(arch, inner), apart=arch.apart, direct=arch.direct, level=arch.level
        )
    inputs = features(spec)
    assert inputs is not None
    # Flatten keeps images and series usable without a preprocessing step of their own.
    net = nn.Sequential(nn.Flatten())
    width = inputs
    for index, units in enumerate(arch.widths):
        net.append(
            Layer(
                width,
                units,
                nonlinearity=arch.activation,
                batch_norm=arch.batch_norm,
                dropout=arch.dropout,
                residual=arch.residual and index > 0,  # not around the first layer, whose input is the raw features
            )
        )
        width = units
    head = nn.Linear(width, n_outputs(spec))
    net.append(head)
    initialize_(net, arch.activation)
    initialize_head_(head)
    return net


SPACE = Space(
    name="mlp",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        # Shifts matter for series: on MNIST-1D a perceptron reaches about 65 % of test without them, 75 to 77 % with
        # random shifts of up to an eighth of the length (reports/LOG.md).
        default=Training(lr=5e-3, epochs=40, batch_size=64, weight_decay=0.02, ema=0.98, augment=("crop", "shift")),
        ranges={
            "optimizer": Categorical(("adamw", "rmsprop", "momentum", "sgd")),
            "lr": LogUniform(2e-3, 2e-2),
            "weight_decay": LogUniform(1e-4, 0.1),
            "schedule": Categorical(("cosine", "linear", "step")),
            "clip_norm": Categorical((1.0, 0.0)),
            "l1": Categorical((0.0, 1e-6, 1e-5)),
            "batch_size": Categorical((32, 64, 128)),
            "mixup": Categorical((0.0, 0.2)),
            "augment": Categorical((("crop", "shift"), ())),
        },
    ),
    task="digits",
    budget=Budget(trials=24, epochs=40, rungs=3, eta=3),
    paper="Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors",
    points={
        "perceptron": Arch(),
        "lenet-300-100": Arch(widths=(300, 100), activation="tanh"),
    },
)
