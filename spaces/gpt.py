"""Causal decoder over tokens: each step says which token comes next, from itself and those before it.

Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2): norms before the branches and one
after the last, the layers that write into the residual stream started smaller by the root of their number (section
2.3), and the embedding's rows as the last layer (Press & Wolf 2017, arXiv:1608.05859) as a choice. It goes on where an
earlier call stopped: `resume` takes the keys and values of the steps before and gives those of its own, so that a loop
outside the graph writes text one token at a time. Not to be confused with the encoder in `transformer`.
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
from searchkit.nn.attention import Attention
from searchkit.nn.blocks.layers import activation
from searchkit.nn.embedding import Positions, TiedOutput


@dataclass(frozen=True)
class Arch:
    """width: channels of a step. ffn: the feed-forward net's width over it. positions: learned or sinusoidal. tied:
    whether the embedding's rows are the last layer too.
    """

    width: int = 64
    heads: int = 4
    depth: int = 2
    ffn: int = 4
    positions: str = "learned"
    tied: bool = True
    activation: str = "relu"
    dropout: float = 0.0


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): (B, L, D)."""

    def __init__(self, width: int, *, heads: int, ffn: int, nonlinearity: str, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout, causal=True)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn * width), activation(nonlinearity), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self._after(x_BLD, self.attention(self.norm_attention(x_BLD)))

    def resume(self, x_BLD: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        attended_BLD, memory_BLM = self.attention.resume(self.norm_attention(x_BLD), past_BPM)
        return self._after(x_BLD, attended_BLD), memory_BLM

    def _after(self, x_BLD: Tensor, attended_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(attended_BLD)
        out: Tensor = x_BLD + self.dropout(self.ffn(self.norm_ffn(x_BLD)))
        return out


class Decoder(nn.Module):
    """(B, L) tokens -> (B, L, V) logits of the token after each. L is at most what the positions are for."""

    def __init__(
        self, embedding: nn.Embedding, positions: Positions, *, blocks: list[Block], norm: nn.LayerNorm, head: nn.Module
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLD = self.positions(self.embedding(tokens_BL))
        for block in self.blocks:
            x_BLD = block(x_BLD)
        out: Tensor = self.head(self.norm(x_BLD))
        return out

    @property
    def memory(self) -> int:
        """Numbers that a step leaves behind, over all blocks."""
        return sum(block.attention.memory for block in self._parts())

    def resume(self, tokens_BL: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the steps that follow P others, and the memory of each, (B, L, M). P + L is at most what the
        positions are for.
        """
        steps_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) + past_BPM.shape[1]
        x_BLD = self.positions(self.embedding(tokens_BL), steps_L)
        memories, blocks = [], self._parts()
        pasts = torch.split(past_BPM, [block.attention.memory for block in blocks], 2)
        for block, past in zip(blocks, pasts, strict=True):
            x_BLD, memory = block.resume(x_BLD, past)
            memories.append(memory)
        return self.head(self.norm(x_BLD)), torch.cat(memories, 2)

    def _parts(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def accepts(spec: DataSpec) -> str | None:
    if spec.modality != "tokens" or spec.varies_in_length:
        return "it reads tokens in windows of one length, such as those of a text"
    if not spec.by_step:
        return "it says which token comes next, and this data asks for one answer a row; take transformer or rnn"
    return None


def sample(trial: Trial, spec: DataSpec) -> Arch:
    return Arch(
        width=16 * trial.suggest_int("width_by_16", 2, 5, log=True),
        heads=trial.suggest_categorical("heads", [2, 4]),
        depth=trial.suggest_int("depth", 1, 3),
        ffn=trial.suggest_int("ffn", 2, 4),
        positions=trial.suggest_categorical("positions", ["learned", "sinusoidal"]),
        tied=trial.suggest_categorical("tied", [True, False]),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.1]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Raises Infeasible where the heads do not share the width out."""
    if arch.width % arch.heads:
        raise Infeasible(f"a width of {arch.width} cannot be shared out to {arch.heads} heads")
    steps = spec.inputs[0].shape[0]
    assert steps is not None, "the windows of a text have one length"
    embedding = nn.Embedding(spec.vocabulary, arch.width)
    blocks = [
        Block(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
        for _ in range(arch.depth)
    ]
    head = TiedOutput(embedding) if arch.tied else nn.Linear(arch.width, spec.vocabulary)
    net = Decoder(
        embedding,
        Positions(arch.width, length=steps, kind=arch.positions),
        blocks=blocks,
        norm=nn.LayerNorm(arch.width),
        head=head,
    )
    _initialize_(net, blocks)
    return net


def _initialize_(net: nn.Module, blocks: list[Block]) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for block in blocks:
        for last in (block.attention.proj, block.ffn[2]):
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.weight.mul_(1.0 / math.sqrt(2 * len(blocks)))


SPACE = Space(
    name="gpt",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=4e-3, epochs=3, batch_size=32, weight_decay=0.05, warmup=0.05),
        ranges={"lr": LogUniform(2e-3, 6e-3), "weight_decay": Categorical((0.01, 0.05, 0.1))},
    ),
    task="pydoc",
    budget=Budget(trials=6, epochs=3, rungs=2, eta=3),
    paper="Radford et al. 2019, Language models are unsupervised multitask learners",
    points={
        "gpt-2": Arch(width=768, heads=12, depth=12, ffn=4, activation="gelu", dropout=0.1),
        "nanogpt-cpu": Arch(width=128, heads=4, depth=4, ffn=4, activation="gelu"),
    },
)  # fmt: skip
