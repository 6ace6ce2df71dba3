"""Causal decoder for language modeling: each step predicts the next token from itself and the earlier ones.

Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2): pre-norm blocks with a final norm, and
smaller initial weights in the layers that write into the residual stream (section 2.3). The output layer may be tied to
the embedding (Press & Wolf 2017, arXiv:1608.05859). `resume` continues from cached keys and values, so that a loop
outside the graph generates text one token at a time. Not to be confused with the encoder in `transformer`.
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
    """The architecture.

    Attributes:
        width: Channels of a step.
        heads: Attention heads.
        depth: Number of blocks.
        ffn: Width of the feed-forward network as a multiple of `width`.
        positions: Position embeddings: learned or sinusoidal.
        tied: Whether the output layer shares the embedding's weights.
        activation: Activation of the feed-forward network.
        dropout: Dropout of the attention weights and of both branches.
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
    """x + attention(norm(x)), then x + ffn(norm(x)), causally: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, *, heads: int, ffn: int, nonlinearity: str, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout, causal=True)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn * width), activation(nonlinearity), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Run the block."""
        return self._after(x_BLD, self.attention(self.norm_attention(x_BLD)))

    def resume(self, x_BLD: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block on steps after those in the cache, and return their cache; see `Attention.resume`."""
        attended_BLD, memory_BLM = self.attention.resume(self.norm_attention(x_BLD), past_BPM)
        return self._after(x_BLD, attended_BLD), memory_BLM

    def _after(self, x_BLD: Tensor, attended_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(attended_BLD)
        out: Tensor = x_BLD + self.dropout(self.ffn(self.norm_ffn(x_BLD)))
        return out


class Decoder(nn.Module):
    """Tokens (B, L) -> logits of the next token after each, (B, L, V). L is at most the number of positions."""

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
        """Return the logits."""
        x_BLD = self.positions(self.embedding(tokens_BL))
        for block in self.blocks:
            x_BLD = block(x_BLD)
        out: Tensor = self.head(self.norm(x_BLD))
        return out

    @property
    def memory(self) -> int:
        """Numbers that the cache holds per step, over all blocks."""
        return sum(block.attention.memory for block in self._parts())

    def resume(self, tokens_BL: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of steps after P cached ones, and their cache.

        Args:
            tokens_BL: The new tokens; P + L is at most the number of positions.
            past_BPM: Cache of the steps before.

        Returns:
            Logits (B, L, V), and the cache of the new steps (B, L, M).
        """
        # Positions go on after the cached steps.
        steps_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) + past_BPM.shape[1]
        x_BLD = self.positions(self.embedding(tokens_BL), steps_L)
        memories, blocks = [], self._parts()
        # Sizes per block: pruning may leave another number of heads in each.
        pasts = torch.split(past_BPM, [block.attention.memory for block in blocks], 2)
        for block, past in zip(blocks, pasts, strict=True):
            x_BLD, memory = block.resume(x_BLD, past)
            memories.append(memory)
        return self.head(self.norm(x_BLD)), torch.cat(memories, 2)

    def _parts(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def accepts(spec: DataSpec) -> str | None:
    """Return None for windows of tokens with a prediction per step, else the reason why not."""
    if spec.modality != "tokens" or spec.varies_in_length:
        return "it takes tokens in windows of one length, such as those of a text"
    if not spec.by_step:
        return "it predicts the next token, and this data has one answer per row; take transformer or rnn"
    return None


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
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
    """Build the network.

    Raises:
        Infeasible: If the width cannot be split into the heads.
    """
    if arch.width % arch.heads:
        raise Infeasible(f"a width of {arch.width} cannot be split into {arch.heads} heads")
    steps = spec.inputs[0].shape[0]
    assert steps is not None, "the windows of a text have one length"
    embedding = nn.Embedding(spec.vocabulary, arch.width)
    blocks = [
        Block(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
        for _ in range(arch.depth)
    ]
    # Tied weights are stored once, which matters in a small file: the embedding is a large part of it.
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
    # Each block adds two branches to the residual stream; scaling them keeps its variance independent of the depth.
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
