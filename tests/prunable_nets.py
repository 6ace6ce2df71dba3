"""Small networks that between them have every structure that a cut must understand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from searchkit.nn.attention import DISTANCES, Attention
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.embedding import Positions
from searchkit.nn.recurrent import Recurrent
from searchkit.nn.sequence import AttentionPool, pool, reverse, valid_steps


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.ReLU(),
            nn.Linear(24, 5),
        )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.conv1 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


class MBConv(nn.Module):
    """Inverted residual with squeeze and excitation, then a grouped convolution under a GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 24, 1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze = nn.Conv2d(24, 6, 1)
        self.excite = nn.Conv2d(6, 24, 1)
        self.project = nn.Conv2d(24, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.groupnorm = nn.GroupNorm(4, 16)
        self.act = nn.PReLU(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.depthwise(torch.relu(self.norm(self.expand(x)))))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y)
        return self.head(self.act(self.groupnorm(self.grouped(x))).mean((2, 3)))


class Mixed(nn.Module):
    """An inverted residual whose depthwise kernels are of three sizes, 3 channels, 3 and 2, and one with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.mixed = MixedDepthwise(8, kernels=(3, 5, 7))
        self.norm = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1)
        self.strided = MixedDepthwise(8, kernels=(5, 3), stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.project(torch.relu(self.norm(self.mixed(x))))
        return self.head(self.strided(x).mean((2, 3)))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 32)
        self.up = nn.Linear(32, 48)
        self.norm = nn.BatchNorm1d(48)
        self.down = nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x + self.down(torch.relu(self.norm(self.up(x)))))


class Recurrences(nn.Module):
    """`layers` recurrent layers in one or two directions over rows of different lengths."""

    def __init__(self, kind: str, *, both: bool = True, layers: int = 2, attend: bool = True, norm: bool = True):
        super().__init__()
        ways, hidden = 1 + both, 16
        widths = [4] + [hidden * ways] * layers
        self.forwards = nn.ModuleList(Recurrent(width, hidden, kind=kind) for width in widths[:-1])
        self.backwards = nn.ModuleList(Recurrent(width, hidden, kind=kind) for width in widths[:-1] if both)
        self.norm = nn.LayerNorm(widths[-1]) if norm else nn.Identity()
        self.pool = AttentionPool(widths[-1]) if attend else None
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.forwards):
            ways = [layer(x)]
            if len(self.backwards):
                ways.append(reverse(self.backwards[i](reverse(x, lengths)), lengths))
            x = torch.cat(ways, dim=2) if len(ways) > 1 else ways[0]
        x = self.norm(x)
        return self.head(self.pool(x, lengths) if self.pool is not None else pool(x, lengths, "mean"))


class Transformer(nn.Module):
    def __init__(self, positions: str = "learned", distances: str = "") -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.positions = Positions(16, length=12, kind=positions)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = Attention(16, heads=4, distances=distances)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.positions(self.embed(x))
        x = x + self.attention(self.norm1(x), valid_steps(x, lengths))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(pool(self.norm3(x), lengths, "mean"))


class ConvAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.squash = nn.Linear(12 * 4 * 4, 20)
        self.widen = nn.Linear(20, 12 * 4 * 4)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        code = self.squash(torch.relu(self.down(x)).flatten(1))
        y = torch.relu(self.widen(torch.relu(code))).view(len(x), -1, 4, 4)
        return self.out(torch.relu(self.up(y)))


class VAE(nn.Module):
    """In evaluation the variance is not read: only the penalty, and sampling while training, depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(10, 32)
        self.mean, self.log_variance = nn.Linear(32, 12), nn.Linear(32, 12)
        self.decode, self.out = nn.Linear(12, 32), nn.Linear(32, 10)
        self.kl = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.encode(x))
        z = mean = self.mean(h)
        if self.training:
            log_variance = self.log_variance(h)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            self.kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return self.out(torch.relu(self.decode(z)))

    def aux_loss(self) -> Tensor:
        return self.kl


def _picture() -> tuple[Tensor, ...]:
    return (torch.randn(3, 1, 8, 8),)


def _row() -> tuple[Tensor, ...]:
    return (torch.randn(3, 10),)


def _series() -> tuple[Tensor, ...]:
    return (torch.randn(3, 9, 4), torch.tensor([9, 5, 1]))


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (3, 9)), torch.tensor([9, 5, 1]))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "plain": (Plain, _picture),
    "residual": (Residual, _picture),
    "mbconv": (MBConv, _picture),
    "mixed": (Mixed, _picture),
    "mlp": (MLP, _row),
    "simple": (lambda: Recurrences("simple"), _series),
    "lstm": (lambda: Recurrences("lstm", both=False, layers=1), _series),
    "gru": (lambda: Recurrences("gru"), _series),
    "peephole": (lambda: Recurrences("peephole"), _series),
    "transformer": (Transformer, _tokens),
    "sinusoidal": (lambda: Transformer("sinusoidal"), _tokens),
    **{kind: (lambda kind=kind: Transformer(distances=kind), _tokens) for kind in DISTANCES},
    "autoencoder": (ConvAutoencoder, _picture),
    "vae": (VAE, _row),
}


def example(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network, in evaluation mode, with BatchNorm statistics unlike a fresh one's; and inputs for it."""
    build, inputs = NETS[name]
    torch.manual_seed(seed)
    net = build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval(), inputs()
