"""Q-networks: from an observation to the value of each action; the agent takes the action with the largest.

Deep Q-networks (Mnih et al. 2015, Nature 518) with a plain or dueling head (Wang et al. 2016, arXiv:1511.06581),
trained by Q-learning or double Q-learning (van Hasselt et al. 2016, arXiv:1509.06461). Without a hidden layer, over
states as one-hot vectors, the network is a table: tabular Q-learning (Watkins & Dayan 1992) and SARSA (Rummery &
Niranjan 1994) are points of the space. The task plays and replays the transitions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.layers import activation, features, n_outputs

BACKUPS = ("double", "max", "sarsa")
"""How the next state is valued: by double Q-learning, by the maximum (Q-learning), or by the action taken (SARSA)."""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        widths: Units of each hidden layer; empty for a table or a linear function of the observation.
        activation: Activation after each hidden layer.
        duelling: Whether the head is dueling: one last hidden layer for the value of the state, and one for the
            advantages.
        backup: How the next state is valued, one of BACKUPS.
    """

    widths: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    duelling: bool = True
    backup: str = "double"


class QNetwork(nn.Module):
    """Action values: (B, features) -> (B, actions). Implements `HasBootstrapValue`."""

    def __init__(self, body: nn.Module, gains: nn.Module, value: nn.Module | None, *, backup: str) -> None:
        super().__init__()
        self.body = body
        self.gains = gains
        self.value = value
        self.backup = backup

    def forward(self, x: Tensor) -> Tensor:
        """Return the action values."""
        x = self.body(x)
        gains: Tensor = self.gains(x)
        if self.value is None:
            return gains
        # Without subtracting the mean, value and advantage would not be identifiable (Wang et al., equation 9).
        out: Tensor = self.value(x) + gains - gains.mean(1, keepdim=True)
        return out

    def bootstrap(self, own_BA: Tensor, target_BA: Tensor, action_B: Tensor) -> Tensor:
        """Return the value of the next state, (B,); see `HasBootstrapValue`."""
        if self.backup == "sarsa":
            chosen = action_B
        else:  # double: one network chooses the action, the other values it, so that noise is not taken for value
            chosen = (own_BA if self.backup == "double" else target_BA).argmax(1)
        return target_BA.gather(1, chosen[:, None])[:, 0]

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"backup={self.backup!r}"


def accepts(spec: DataSpec) -> str | None:
    """Return None for an environment with one observation of fixed size, else the reason why not."""
    if not spec.acts:
        return "it needs an environment to act in, such as CartPole-v1"
    if len(spec.inputs) != 1 or features(spec) is None:
        return "it takes one observation of fixed size"
    return None


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture; tables are points of the space and not sampled."""
    depth = trial.suggest_int("depth", 1, 3)
    return Arch(
        widths=tuple(8 * trial.suggest_int(f"width_{i}_by_8", 2, 16, log=True) for i in range(depth)),
        activation=trial.suggest_categorical("activation", ["relu", "tanh", "leaky_relu"]),
        duelling=trial.suggest_categorical("duelling", [True, False]),
        backup=trial.suggest_categorical("backup", ["double", "max"]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the backup is unknown, or a network without hidden layers should have a dueling head.
    """
    inputs, actions = features(spec), n_outputs(spec)
    assert inputs is not None
    if arch.backup not in BACKUPS:
        raise Infeasible(f"no backup named '{arch.backup}'; they are {', '.join(BACKUPS)}")
    if arch.duelling and not arch.widths:
        raise Infeasible("a table has no hidden layer that two heads could share")
    # The last hidden layer belongs to the heads: a dueling network has one for each.
    body = nn.Sequential(nn.Flatten())
    width = inputs
    for units in arch.widths[:-1]:
        body.extend([nn.Linear(width, units), activation(arch.activation)])
        width = units

    def head(outputs: int) -> nn.Sequential:
        linear = nn.Linear(arch.widths[-1] if arch.widths else width, outputs, bias=bool(arch.widths))
        if not arch.widths:
            nn.init.zeros_(linear.weight)  # a table starts with all values 0
            return nn.Sequential(linear)
        return nn.Sequential(nn.Linear(width, arch.widths[-1]), activation(arch.activation), linear)

    # The layers keep torch's default initialization, smaller than He's by √6: the learning target is bootstrapped from
    # the network's own values, so values that start large stay. Measured on CartPole-v1, test return of the best
    # network, three seeds each of two settings: with He's 125, 156, 420 and 159, 500, 500; with torch's 500, 324, 500
    # and 500, 493, 488.
    gains = head(actions)
    return QNetwork(body, gains, head(1) if arch.duelling else None, backup=arch.backup)


SPACE = Space(
    name="dqn",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        # Averaged weights (ema), because single networks vary: on CartPole-v1 the last network of a training may have a
        # return of 100 and the best one 500. The task keeps the best one that it checked.
        default=Training(lr=2e-3, epochs=125, batch_size=128, weight_decay=0.0, clip_norm=10.0, ema=0.99),
        ranges={
            "lr": LogUniform(1e-3, 4e-3),
            "batch_size": Categorical((128, 64)),
            "schedule": Categorical(("cosine", "constant")),
            "ema": Categorical((0.99, 0.0)),
        },
    ),
    task="CartPole-v1",
    budget=Budget(trials=6, epochs=125, rungs=2, eta=3),
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning",
    points={
        "dqn": Arch(duelling=False, backup="max"),
        "double-dqn": Arch(duelling=False),
        "duelling-dqn": Arch(),
        "q-learning": Arch(widths=(), duelling=False, backup="max"),
        "sarsa": Arch(widths=(), duelling=False, backup="sarsa"),
    },
)
