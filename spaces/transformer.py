"""Transformer encoder for series and tokens: pre-norm blocks of self-attention and a feed-forward network.

Vaswani et al. 2017, arXiv:1706.03762. Frames of consecutive steps of a series (a convolution), or embedded tokens, are
the steps; tokens may be joined to frames too. Positions are added to the steps, or attention has a term for the
relative position: a number (T5: Raffel et al. 2020), from the query (Shaw et al. 2018), or disentangled, from query and
key (DeBERTa: He et al. 2021). Padding is not attended to. Not to be confused with a decoder: every step sees every
other one.

The class token is a step of zeros before the row. Its position distinguishes it, so it needs no parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Budget, Sharing, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.attention import DISTANCES
from searchkit.nn.blocks.encoder import Block
from searchkit.nn.blocks.forecaster import forecaster, sample_apart, sample_direct, sample_frames, sample_level
from searchkit.nn.blocks.layers import initialize_, initialize_head_, n_outputs
from searchkit.nn.blocks.steps import Stem, accepts, check_stem
from searchkit.nn.embedding import Positions
from searchkit.nn.sequence import pool, valid_steps

MOST_STEPS = 512
"""Number of positions if rows vary in length and the data have no maximum."""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        width: Channels of a step.
        heads: Attention heads.
        depth: Number of blocks.
        ffn: Width of the feed-forward network as a multiple of `width`.
        positions: Absolute positions, learned or sinusoidal, or one of the relative-position terms in DISTANCES.
        pooling: How the steps become one vector: mean, token (a class token), or both (mean and maximum).
        frame: Steps that the stem joins into one.
        hop: Steps from one frame to the next.
        activation: Activation of the feed-forward network.
        dropout: Dropout of the attention weights and of the branches.
        embedded: Width of the token embedding; 0 for `width`.
        input_dropout: Dropout of embedded tokens, and before the output.
        apart: For forecasts, see `searchkit.nn.blocks.forecaster`.
        direct: For forecasts.
        level: For forecasts.
    """

    width: int = 64
    heads: int = 4
    depth: int = 2
    ffn: int = 2
    positions: str = "learned"
    pooling: str = "mean"
    frame: int = 7
    hop: int = 2
    activation: str = "relu"
    dropout: float = 0.0
    embedded: int = 0
    input_dropout: float = 0.0
    apart: bool = False
    direct: bool = False
    level: bool = False


class Encoder(nn.Module):
    """(B, C, L) numbers or (B, L) tokens, and lengths (B,) if they vary -> (B, outputs).

    Args:
        stem: From the input to steps.
        positions: Absolute positions, or None with relative-position terms.
        blocks: The encoder's blocks.
        norm: Norm after the last block.
        head: Output layer.
        pooling: How the steps become one vector.
    """

    def __init__(
        self,
        stem: Stem,
        positions: Positions | None,
        *,
        blocks: list[Block],
        norm: nn.LayerNorm,
        head: nn.Module,
        pooling: str,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.pooling = pooling

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Run the network."""
        steps_BLD, lengths_B = self.steps(x, lengths_B)
        if self.pooling == "both":
            pooled_BD = torch.cat([pool(steps_BLD, lengths_B, how) for how in ("mean", "max")], 1)
        else:
            pooled_BD = pool(steps_BLD, lengths_B, "first" if self.pooling == "token" else "mean")
        out: Tensor = self.head(pooled_BD)
        return out

    def steps(self, x: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the encoded steps, (B, L, D), with the class token first, and the number of valid ones."""
        steps_BLD, lengths_B = self.stem(x, lengths_B)
        if self.pooling == "token":
            steps_BLD = F.pad(steps_BLD, (0, 0, 1, 0))
            lengths_B = None if lengths_B is None else lengths_B + 1
        if self.positions is not None:
            steps_BLD = self.positions(steps_BLD)
        keep_BL = None if lengths_B is None else valid_steps(steps_BLD, lengths_B)
        for block in self.blocks:
            steps_BLD = block(steps_BLD, keep_BL)
        return self.norm(steps_BLD), lengths_B

    def restorer(self) -> nn.Module:
        """Return a masked-token head over this encoder; see `HasMaskedHead`. For tokens only."""
        return Restorer(self)


class Restorer(nn.Module):
    """Predict hidden tokens with the embedding's weights: (hidden tokens, vocabulary) logits.

    BERT: Devlin et al. 2019, arXiv:1810.04805. Only pre-training uses it.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        embedding = encoder.stem.embedding
        assert embedding is not None, "masked pre-training is for tokens"
        self.encoder = encoder
        self.embedding = embedding
        self.say = nn.Sequential(
            nn.Linear(encoder.norm.normalized_shape[0], embedding.embedding_dim),
            nn.GELU(approximate="tanh"),
            nn.LayerNorm(embedding.embedding_dim),
        )
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))

    def forward(self, hidden_BL: Tensor, tokens_BL: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the logits of hidden tokens.

        Args:
            hidden_BL: True for hidden tokens.
            tokens_BL: Tokens, with the hidden ones replaced.
            lengths_B: Valid steps of each row, or None if all are valid.
        """
        steps_BLD, _ = self.encoder.steps(tokens_BL, lengths_B)
        steps_BLD = steps_BLD[:, 1 if self.encoder.pooling == "token" else 0 :]
        # In training the stem cuts the batch to its longest row; what is cut off is padding, which is never hidden.
        said = self.say(steps_BLD[hidden_BL[:, : steps_BLD.shape[1]]])
        return F.linear(said, self.embedding.weight, self.bias)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    is_text = spec.modality == "tokens"
    # Frames of tokens help on short texts: SST-2, val .802 with frames of 3 or 5 words, .790 with single words (two
    # seeds each, reports/LOG.md). They start at the middle of the list, as every choice does.
    if spec.forecasts:
        frame, hop = sample_frames(trial, spec)
    elif is_text:
        frame, hop = trial.suggest_categorical("ngram", [1, 3, 5]), 1
    else:
        frame, hop = trial.suggest_categorical("frame", [7, 5, 3]), 0
    return Arch(
        width=16 * trial.suggest_int("width_by_16", 2, 5, log=True),
        heads=trial.suggest_categorical("heads", [1, 2, 4]),
        depth=trial.suggest_int("depth", 1, 3),
        ffn=trial.suggest_int("ffn", 1, 3),
        positions=trial.suggest_categorical("positions", ["learned", "sinusoidal", *DISTANCES]),
        pooling=trial.suggest_categorical("pooling", ["mean", "both", "token"] if is_text else ["mean", "token"]),
        frame=frame,
        hop=hop or trial.suggest_int("hop", 1, 3),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.1]),
        # On SST-2 an embedding of 32 numbers had val .780, one of 256 .794.
        embedded=32 * trial.suggest_int("embedded_by_32", 1, 4) if is_text else 0,
        input_dropout=trial.suggest_categorical("input_dropout", [0.1, 0.3, 0.5]) if is_text else 0.0,
        apart=sample_apart(trial, spec),
        direct=sample_direct(trial, spec),
        level=sample_level(trial, spec),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the width cannot be split into the heads, or a frame is longer than the rows.
    """
    if spec.forecasts:
        return forecaster(
            spec, lambda inner: build(arch, inner), apart=arch.apart, direct=arch.direct, level=arch.level
        )
    check_stem(spec, arch.frame)
    # One position more for the class token.
    steps = spec.inputs[0].shape[-1] or MOST_STEPS
    length = (steps + arch.hop - 1) // arch.hop + (1 if arch.pooling == "token" else 0)
    stem = Stem(spec, arch.width, frame=arch.frame, hop=arch.hop, embedded=arch.embedded, dropout=arch.input_dropout)
    initialize_(stem, "relu")
    told = arch.positions in DISTANCES
    blocks = [
        Block(
            arch.width,
            heads=arch.heads,
            ffn=arch.ffn,
            nonlinearity=arch.activation,
            dropout=arch.dropout,
            distances=arch.positions if told else "",
        )
        for _ in range(arch.depth)
    ]
    answer = nn.Linear(arch.width * (2 if arch.pooling == "both" else 1), n_outputs(spec))
    initialize_head_(answer)
    head = nn.Sequential(nn.Dropout(arch.input_dropout), answer) if arch.input_dropout else answer
    positions = None if told else Positions(arch.width, length=length, kind=arch.positions)
    return Encoder(stem, positions, blocks=blocks, norm=nn.LayerNorm(arch.width), head=head, pooling=arch.pooling)


def shares(arch: Arch, other: Arch) -> Sharing | None:
    """Say how the weights of `arch` lie in those of `other`: blocks by index, the first channels of each head."""

    def kind(arch: Arch) -> tuple[object, ...]:
        # Single tokens whose embedding is as wide as the steps need no convolution in the stem.
        single = arch.frame == arch.hop == 1 and arch.embedded in (0, arch.width)
        return (
            arch.heads, arch.positions, arch.pooling, arch.hop, arch.activation, arch.apart, arch.direct, arch.level,
            single, arch.embedded == 0, arch.input_dropout > 0,
        )  # fmt: skip

    if kind(arch) != kind(other):
        return None
    new = range(other.depth, arch.depth)
    nets = ("", "net.")  # a forecaster has the network inside
    return Sharing(
        {f"{net}blocks.{index}": None for net in nets for index in new},
        joined={f"{net}head": 2 for net in nets} if arch.pooling == "both" else {},
    )


# int8, measured latency ratios: width 128 .92 static and .73 dynamic; width 256 .55 and .37.
SPACE = Space(
    name="transformer",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            lr=4e-3, epochs=18, batch_size=64, weight_decay=0.05, ema=0.98, warmup=0.1, augment=("shift", "drop")
        ),
        ranges={
            "lr": LogUniform(2e-3, 6e-3),
            "schedule": Categorical(("cosine", "linear")),
            "clip_norm": LogUniform(0.25, 4.0),
            "weight_decay": LogUniform(1e-2, 0.2),
            "augment": Categorical((("shift", "drop"), ("shift", "jitter", "scale", "drop"), ())),
            "label_smoothing": Categorical((0.0, 0.1)),
            # On SST-2 (6,920 sentences) pre-training did not help: val .789, .803 without it (one seed).
            "pretrain_epochs": Categorical((0, 10)),
        },
    ),
    task="mnist1d",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Vaswani et al. 2017, arXiv:1706.03762",
    points={"base": Arch(width=96, heads=4, depth=4, ffn=4)},
    shares=shares,
)  # fmt: skip
