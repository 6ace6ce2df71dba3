"""Encoder-decoder for sequence-to-sequence tasks such as translation: a Transformer, or GRUs with attention.

"transformer": Vaswani et al. 2017, arXiv:1706.03762, with pre-norm blocks. "gru": a bidirectional GRU encoder, and a
GRU decoder that attends to it (Bahdanau et al. 2015, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025). As in the
latter, the context is joined to the state after the recurrence and not fed back into it, so training needs one pass
over all steps. Deeper layers run over the joined states (Wu et al. 2016, arXiv:1609.08144, attends at the same place).

The decoder's input is the target shifted by one step, and each step predicts the next token; the generating loop is
outside the graph. Not to be confused with `gpt`, which has no source, or `transformer`, which has no decoder.
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
from searchkit.nn.attention import Attention, CrossAttention
from searchkit.nn.blocks.encoder import Block
from searchkit.nn.blocks.layers import activation
from searchkit.nn.blocks.steps import Layer
from searchkit.nn.embedding import Positions, TiedOutput
from searchkit.nn.sequence import pool, valid_steps


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        kind: transformer or gru.
        width: Channels of a step in encoder and decoder.
        heads: Attention heads.
        depth: Layers of the encoder, and of the decoder.
        tied: Whether the output layer shares the weights of the target embedding.
        ffn: Transformer only: width of the feed-forward network as a multiple of `width`.
        positions: Transformer only: learned or sinusoidal.
        activation: Transformer only: activation of the feed-forward network.
        score: GRU only: attention score, dot or additive.
        dropout: Dropout of attention weights, embeddings and branches.
    """

    kind: str = "transformer"
    width: int = 64
    heads: int = 4
    depth: int = 2
    tied: bool = True
    ffn: int = 2
    positions: str = "sinusoidal"
    activation: str = "relu"
    score: str = "dot"
    dropout: float = 0.0


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and feed-forward network, pre-norm with shortcuts.

    x (B, T, D), memory (B, S, D) -> (B, T, D).
    """

    def __init__(self, width: int, *, heads: int, ffn: int, nonlinearity: str, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout, causal=True)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads=heads, dropout=dropout)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn * width), activation(nonlinearity), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, keep_BS: Tensor) -> Tensor:
        """Run the block; keep_BS is False for source steps that nothing may attend to."""
        x_BTD = x_BTD + self.dropout(self.attention(self.norm_attention(x_BTD)))
        x_BTD = x_BTD + self.dropout(self.cross(self.norm_cross(x_BTD), memory_BSD, keep_BS))
        out: Tensor = x_BTD + self.dropout(self.ffn(self.norm_ffn(x_BTD)))
        return out


class Transformer(nn.Module):
    """Source tokens (B, S), lengths (B,) and target tokens so far (B, T) -> logits of the next token, (B, T, V)."""

    def __init__(self, arch: Arch, spec: DataSpec) -> None:
        super().__init__()
        longest = _longest(spec)
        # Sinusoids have magnitude 1, and embeddings are scaled to match (section 3.4); learned positions start small.
        self.scale = math.sqrt(arch.width) if arch.positions == "sinusoidal" else 1.0
        self.embedding = nn.Embedding(spec.vocabulary, arch.width)
        self.positions = Positions(arch.width, length=longest[0], kind=arch.positions)
        self.encoder = nn.ModuleList(
            Block(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
            for _ in range(arch.depth)
        )
        self.norm_memory = nn.LayerNorm(arch.width)
        self.answer_embedding = nn.Embedding(spec.n_classes, arch.width)
        self.answer_positions = Positions(arch.width, length=longest[1], kind=arch.positions)
        self.decoder = nn.ModuleList(
            DecoderBlock(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
            for _ in range(arch.depth)
        )
        self.norm = nn.LayerNorm(arch.width)
        self.dropout = nn.Dropout(arch.dropout) if arch.dropout > 0 else nn.Identity()
        self.head = TiedOutput(self.answer_embedding) if arch.tied else nn.Linear(arch.width, spec.n_classes)
        _initialize_(self)

    def forward(self, tokens_BS: Tensor, lengths_B: Tensor, previous_BT: Tensor) -> Tensor:
        """Return the logits."""
        x_BSD = self.dropout(self.positions(self.scale * self.embedding(tokens_BS)))
        keep_BS = valid_steps(x_BSD, lengths_B)
        for block in self.encoder:
            x_BSD = block(x_BSD, keep_BS)
        memory_BSD = self.norm_memory(x_BSD)
        y_BTD = self.dropout(self.answer_positions(self.scale * self.answer_embedding(previous_BT)))
        for block in self.decoder:
            y_BTD = block(y_BTD, memory_BSD, keep_BS)
        out: Tensor = self.head(self.norm(y_BTD))
        return out


class Recurrence(nn.Module):
    """The same with GRUs: source tokens, lengths and target tokens so far -> logits of the next token, (B, T, V).

    The decoder's states start at zero, so the mean of the encoded source is added to each step of the target; this is
    what they know before they attend. The attended context is added to them, so all of it has the channels of the
    target embedding, which may be the output layer too.

    Args:
        arch: The architecture.
        spec: The data.

    Raises:
        Infeasible: If the width is odd.
    """

    def __init__(self, arch: Arch, spec: DataSpec) -> None:
        super().__init__()
        if arch.width % 2:
            raise Infeasible(f"a width of {arch.width} cannot be split into two directions")
        width = arch.width
        self.embedding = nn.Embedding(spec.vocabulary, width)
        self.encoder = nn.ModuleList(
            Layer(width, width // 2, kind="gru", bidirectional=True) for _ in range(arch.depth)
        )
        self.bridge = nn.Linear(width, width)
        self.answer_embedding = nn.Embedding(spec.n_classes, width)
        self.decoder = nn.ModuleList(Layer(width, width, kind="gru", bidirectional=False) for _ in range(arch.depth))
        self.attention = CrossAttention(width, heads=arch.heads, dropout=arch.dropout, score=arch.score)
        self.join = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(arch.dropout) if arch.dropout > 0 else nn.Identity()
        self.head = TiedOutput(self.answer_embedding) if arch.tied else nn.Linear(width, spec.n_classes)
        _initialize_(self)

    def forward(self, tokens_BS: Tensor, lengths_B: Tensor, previous_BT: Tensor) -> Tensor:
        """Return the logits."""
        x_BSD = self.dropout(self.embedding(tokens_BS))
        keep_BS = valid_steps(x_BSD, lengths_B)
        for layer in self.encoder:
            x_BSD = self.dropout(torch.cat(layer(x_BSD, lengths_B), 2))
        memory_BSD = self.bridge(x_BSD)
        known_B1D = pool(memory_BSD, lengths_B, "mean")[:, None]
        first, *deeper = self.decoder
        # Only the first layer is told; deeper ones read what it made of that.
        (state_BTD,) = first(self.dropout(self.answer_embedding(previous_BT)) + known_B1D, None)
        # All steps at once: the context does not enter the recurrence (Luong et al. 2015), so training is one pass.
        context_BTD = self.attention(state_BTD, memory_BSD, keep_BS)
        y_BTD = state_BTD + self.dropout(torch.tanh(self.join(torch.cat([state_BTD, context_BTD], 2))))
        for layer in deeper:
            y_BTD = y_BTD + self.dropout(layer(y_BTD, None)[0])
        out: Tensor = self.head(y_BTD)
        return out


def _longest(spec: DataSpec) -> tuple[int, int]:
    """The largest number of steps of a source, and of a target."""
    source, answer = (next(port for port in spec.inputs if port.name == name) for name in ("tokens", "previous"))
    assert source.shape[0] is not None and answer.shape[0] is not None, "a network is built for a length"
    return source.shape[0], answer.shape[0]


def _initialize_(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.embedding_dim))


def accepts(spec: DataSpec) -> str | None:
    """Return None for sequence-to-sequence data, else the reason why not."""
    if not spec.writes:
        return "it translates sequences; give parallel files, or lines with a tab, with --problem translation"
    return None


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    kind = trial.suggest_categorical("kind", ["transformer", "gru"])
    attends = kind == "transformer"
    # Parameters that do nothing for a kind are not asked for, so that no two trials of it build the same network.
    return Arch(
        kind=kind,
        width=16 * trial.suggest_int("width_by_16", 2, 5, log=True),
        heads=trial.suggest_categorical("heads", [2, 4]),
        depth=trial.suggest_int("depth", 1, 2),
        tied=trial.suggest_categorical("tied", [True, False]),
        ffn=trial.suggest_int("ffn", 2, 4) if attends else 1,
        positions=trial.suggest_categorical("positions", ["sinusoidal", "learned"]) if attends else "learned",
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]) if attends else "relu",
        score="dot" if attends else trial.suggest_categorical("score", ["dot", "additive"]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.1]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the width cannot be split into the heads.
    """
    if arch.width % arch.heads:
        raise Infeasible(f"a width of {arch.width} cannot be split into {arch.heads} heads")
    return Transformer(arch, spec) if arch.kind == "transformer" else Recurrence(arch, spec)


# Measured on Multi30k, one trial of 16 epochs with 4,000 byte pairs: BLEU 33.3 on test 2016, int8 file of 647 KB.
SPACE = Space(
    name="seq2seq",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=4e-3, epochs=12, batch_size=64, weight_decay=0.01, warmup=0.1),
        ranges={"lr": LogUniform(2e-3, 8e-3), "label_smoothing": Categorical((0.0, 0.1))},
    ),
    task="dates",
    budget=Budget(trials=6, epochs=12, rungs=2, eta=3),
    paper="Vaswani et al. 2017, arXiv:1706.03762; Bahdanau et al. 2015, arXiv:1409.0473",
    points={
        "transformer-base": Arch(width=512, heads=8, depth=6, ffn=4, dropout=0.1),
        "gru-additive": Arch(kind="gru", width=256, heads=1, depth=1, score="additive", dropout=0.2),
        "gru-dot": Arch(kind="gru", width=256, heads=1, depth=2, score="dot", dropout=0.2),
    },
)  # fmt: skip
