"""Encoder and decoder: one text is read whole, and another is written with an eye on it.

Two kinds. "transformer": Vaswani et al. 2017, arXiv:1706.03762, with the norms before the branches. "gru": a recurrent
encoder in both directions and a recurrent decoder whose states look for what they need among the encoder's (Bahdanau et
al. 2015, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025): as in the latter the context is joined to the state
after the recurrence and not fed back into it, so that training takes one pass over all steps; deeper layers run over
what was joined (Wu et al. 2016, arXiv:1609.08144, has its attention there too). The answer comes in one step late, and
each step says which token is next; the loop that writes is outside. Not to be confused with `gpt`, which reads no
source, or with `transformer`, which writes nothing.
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
from searchkit.nn.attention import Attention, CrossAttention, Positions, TiedOutput
from searchkit.nn.blocks.encoder import Block
from searchkit.nn.blocks.layers import activation
from searchkit.nn.blocks.steps import Layer
from searchkit.nn.sequence import pool, valid_steps


@dataclass(frozen=True)
class Arch:
    """kind: transformer or gru. width: channels of a step on both sides. heads: of every attention. depth: layers of
    the encoder and of the decoder each. tied: whether the answers' embedding is the last layer too.

    Of a transformer: ffn, the feed-forward net's width over `width`; positions, learned or sinusoidal; activation. Of a
    gru: score, dot or additive, how a state and what it looks at are compared.
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
    """Each over its norm and added to x: attention to the steps before, to the memory, and a feed-forward net. x (B, T,
    D), memory (B, S, D) -> (B, T, D).
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
        x_BTD = x_BTD + self.dropout(self.attention(self.norm_attention(x_BTD)))
        x_BTD = x_BTD + self.dropout(self.cross(self.norm_cross(x_BTD), memory_BSD, keep_BS))
        out: Tensor = x_BTD + self.dropout(self.ffn(self.norm_ffn(x_BTD)))
        return out


class Transformer(nn.Module):
    """(B, S) tokens, (B,) lengths and (B, T), the answer so far -> (B, T, V) logits of the token after each of it."""

    def __init__(self, arch: Arch, spec: DataSpec) -> None:
        super().__init__()
        longest = _longest(spec)
        # sinusoids are of size 1, and the embedding is brought to it (section 3.4); learned positions begin small
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
        _initialise_(self)

    def forward(self, tokens_BS: Tensor, lengths_B: Tensor, previous_BT: Tensor) -> Tensor:
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
    """As Transformer. The mean of what the encoder saw is added to each step of the answer: the decoder's states start
    at zero, and this is what they know before they have looked. What they find is added to them, so that all of it has
    the channels of the answers' embedding, which may be the last layer too.
    """

    def __init__(self, arch: Arch, spec: DataSpec) -> None:
        super().__init__()
        if arch.width % 2:
            raise Infeasible(f"a width of {arch.width} cannot be shared out to two directions")
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
        _initialise_(self)

    def forward(self, tokens_BS: Tensor, lengths_B: Tensor, previous_BT: Tensor) -> Tensor:
        x_BSD = self.dropout(self.embedding(tokens_BS))
        keep_BS = valid_steps(x_BSD, lengths_B)
        for layer in self.encoder:
            x_BSD = self.dropout(torch.cat(layer(x_BSD, lengths_B), 2))
        memory_BSD = self.bridge(x_BSD)
        known_B1D = pool(memory_BSD, lengths_B, "mean")[:, None]
        first, *deeper = self.decoder
        (state_BTD,) = first(self.dropout(self.answer_embedding(previous_BT)) + known_B1D, None)
        context_BTD = self.attention(state_BTD, memory_BSD, keep_BS)
        y_BTD = state_BTD + self.dropout(torch.tanh(self.join(torch.cat([state_BTD, context_BTD], 2))))
        for layer in deeper:
            y_BTD = y_BTD + self.dropout(layer(y_BTD, None)[0])
        out: Tensor = self.head(y_BTD)
        return out


def _longest(spec: DataSpec) -> tuple[int, int]:
    """Steps of a source and of an answer, at most."""
    source, answer = (next(port for port in spec.inputs if port.name == name) for name in ("tokens", "previous"))
    assert source.shape[0] is not None and answer.shape[0] is not None, "a network is built for a length"
    return source.shape[0], answer.shape[0]


def _initialise_(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.embedding_dim))


def accepts(spec: DataSpec) -> str | None:
    if not spec.writes:
        return "it answers a text by a text: parallel files, or lines with a tab in them, by --problem translation"
    return None


def sample(trial: Trial, spec: DataSpec) -> Arch:
    kind = trial.suggest_categorical("kind", ["transformer", "gru"])
    attends = kind == "transformer"
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
    """Raises Infeasible where the heads do not share the width out."""
    if arch.width % arch.heads:
        raise Infeasible(f"a width of {arch.width} cannot be shared out to {arch.heads} heads")
    return Transformer(arch, spec) if arch.kind == "transformer" else Recurrence(arch, spec)


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
