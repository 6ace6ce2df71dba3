"""Attention and what it needs to tell steps apart: positions, distances, and an embedding that is read backwards.

Vaswani et al. 2017, arXiv:1706.03762. What a cut of a head, a channel or a width takes along is said as in
`searchkit.nn.parts`, whose modules these are like; not to be confused with convolution over a graph (`layers_graph`).

Axes: B batch, L and T step, S step of a memory, D width, N attention head, K channel of a head, R distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured, is_tracing

REACH = 16
"""Steps either way that distances are told apart at. Shaw et al. (section 4.3) found no gain beyond."""

DISTANCES = ("bias", "relative", "disentangled")


class RelativePositionBias(nn.Module):
    """What attention's scores gain by how far apart two steps are, at most REACH; R = 2 · REACH + 1 distances.

    kind: "bias", a number a head and distance (T5: Raffel et al., 2020, section 2.1; without its wider and wider
    classes). "relative", the query's product with a vector a distance, which the heads share (Shaw et al., 2018,
    arXiv:1803.02155, equation 4). "disentangled", the query's product with the distance's key and the key's with the
    distance's query, the heads' own (DeBERTa: He et al., 2021, arXiv:2006.03654, equation 4). There these are one table
    of embedded distances, times a matrix a layer. The products are constants once trained, and where a table has no
    more rows than columns they can be any, so that here they are the parameters: (heads, K, R).
    """

    def __init__(self, heads: int, head_width: int, *, kind: str) -> None:
        super().__init__()
        distances = 2 * REACH + 1
        self.bias: nn.Parameter | None = None
        self.keys: nn.Parameter | None = None
        self.queries: nn.Parameter | None = None
        if kind == "bias":
            self.bias = nn.Parameter(torch.empty(heads, distances))
        elif kind == "relative":
            self.keys = nn.Parameter(torch.empty(head_width, distances))
        elif kind == "disentangled":
            self.keys = nn.Parameter(torch.empty(heads, head_width, distances))
            self.queries = nn.Parameter(torch.empty(heads, head_width, distances))
        else:
            raise ValueError(f"No distances of kind '{kind}'; the kinds are {', '.join(DISTANCES)}.")
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)
        # a sum of three products has three times the variance of one (He et al., 2021, section 3.1)
        self.scale = 1.0 / math.sqrt((3 if kind == "disentangled" else 1) * head_width)

    def parts(self) -> tuple[Part, ...]:
        """The slices of the heads."""
        shared = self.queries is None
        return tuple(Part(self, name, 0) for name, _ in self.named_parameters() if not (shared and name == "keys"))

    def forward(self, q_BNLK: Tensor, k_BNSK: Tensor) -> Tensor:
        """The whole scores, (B, N, L, S): those of the content, and what the distances add."""
        scores_BNLS = q_BNLK @ k_BNSK.transpose(2, 3)
        steps, seen = scores_BNLS.shape[2:]
        apart_LS = _at(steps, seen, q_BNLK.device)[:, None] - torch.arange(seen, device=q_BNLK.device)
        index_LS = apart_LS.clamp(-REACH, REACH) + REACH
        if self.keys is not None:
            scores_BNLS = scores_BNLS + _chosen(q_BNLK @ self.keys, index_LS)
        if self.queries is not None:
            of_keys_BNSL = _chosen(k_BNSK @ self.queries, 2 * REACH - index_LS.t())
            scores_BNLS = scores_BNLS + of_keys_BNSL.transpose(2, 3)
        scores_BNLS = scores_BNLS * self.scale
        return scores_BNLS if self.bias is None else scores_BNLS + self.bias[:, index_LS]


def _chosen(by_distance_BNLR: Tensor, index_LS: Tensor) -> Tensor:
    """(B, N, L, S): at each step the products with the distances to the others."""
    return by_distance_BNLR.gather(3, index_LS.expand(*by_distance_BNLR.shape[:2], -1, -1))


class Attention(Structured):
    """Multi-head self-attention: (B, L, D) -> (B, L, D). Vaswani et al., 2017. Heads are cut whole; the width of a head
    stays, so that the scale of its scores does. causal: a step attends to itself and to those before it. distances: a
    kind of Distances, or "" for scores of the content alone.
    """

    def __init__(
        self, width: int, *, heads: int, dropout: float = 0.0, causal: bool = False, distances: str = ""
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"A width of {width} cannot be split into {heads} heads.")
        self.head_width = width // heads
        self.dropout = dropout
        self.causal = causal
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.distances = RelativePositionBias(heads, self.head_width, kind=distances) if distances else None

    @property
    def in_channels(self) -> int:
        return self.q.weight.shape[1]

    @property
    def out_channels(self) -> int:
        return self.proj.weight.shape[0]

    @property
    def n_inner(self) -> int:  # type: ignore[override]
        """Heads."""
        return self.q.weight.shape[0] // self.head_width

    def parts(self, side: Side) -> tuple[Part, ...]:
        if side == "out":
            return (Part(self.proj, "weight", 0), Part(self.proj, "bias", 0))
        qkv = (self.q, self.k, self.v)
        if side == "in":
            return tuple(Part(linear, "weight", 1) for linear in qkv)
        rows = tuple(Part(linear, name, 0, run=self.head_width) for linear in qkv for name in ("weight", "bias"))
        of_distances = () if self.distances is None else self.distances.parts()
        return (*rows, *of_distances, Part(self.proj, "weight", 1, run=self.head_width))

    def refit_(self) -> None:
        for linear in (self.q, self.k, self.v, self.proj):
            linear.out_features, linear.in_features = linear.weight.shape

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: keep_BL, bool, False at keys that nothing may attend to, or None."""
        keep_BL = context[0] if context else None
        mask = None if keep_BL is None else keep_BL[:, None, None, :]
        if mask is not None and self.causal:
            mask = mask & _causal(x.shape[1], x.shape[1], x.device)
        return self._attend(self.q(x), self.k(x), self.v(x), mask, is_causal=self.causal and mask is None)

    @property
    def memory(self) -> int:
        """Numbers that a step leaves behind for the steps after it: its keys and values."""
        return 2 * self.k.weight.shape[0]

    def resume(self, x: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """The steps x that follow P others, causally: (B, L, D), and their own memory, (B, L, M).

        past_BPM: the memories of the steps before, P ≥ 0 of them.
        """
        assert self.causal, "what later steps change cannot be gone on from"
        memory_BLM = torch.cat([self.k(x), self.v(x)], 2)
        k, v = torch.cat([past_BPM, memory_BLM], 1).chunk(2, 2)
        # bool, though the graph then guards against rows that see nothing: an added −inf breaks static int8's range
        mask = _causal(x.shape[1], k.shape[1], x.device)
        return self._attend(self.q(x), k, v, mask, is_causal=False), memory_BLM

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """q: (B, L, N·K). k, v: (B, S, N·K). mask: (…, L, S), True where a step may attend."""
        q_BNLK, k_BNSK, v_BNSK = (torch.unflatten(x, 2, (-1, self.head_width)).transpose(1, 2) for x in (q, k, v))
        if self.distances is None:
            dropout = self.dropout if self.training else 0.0
            y_BNLK = F.scaled_dot_product_attention(
                q_BNLK, k_BNSK, v_BNSK, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
            )
        else:
            scores_BNLS = self.distances(q_BNLK, k_BNSK)
            if is_causal:
                mask = _causal(q.shape[1], k.shape[1], q.device)
            if mask is not None:
                scores_BNLS = scores_BNLS.masked_fill(~mask, float("-inf"))
            y_BNLK = F.dropout(scores_BNLS.softmax(3), self.dropout, self.training) @ v_BNSK
        out: Tensor = self.proj(y_BNLK.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        return f"{self.in_channels}, heads={self.n_inner}" + (", causal" if self.causal else "")


def _at(steps: int, seen: int, device: torch.device) -> Tensor:
    """(steps,): where steps stand that are the last of those seen."""
    return torch.arange(steps, device=device) + (seen - steps)


class CrossAttention(Attention):
    """Multi-head attention of one row's steps to those of another: x (B, T, D), memory (B, S, D) -> (B, T, D).

    score: "dot", the scaled product (Vaswani et al., 2017), or "additive", a layer of tanh units over query and key
    (Bahdanau et al., 2015, arXiv:1409.0473). Both rows have the same channels, which are cut from both at once.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0, score: str = "dot") -> None:
        super().__init__(width, heads=heads, dropout=dropout)
        if score not in ("dot", "additive"):
            raise ValueError(f"No score named '{score}'; they are dot, additive.")
        self.score = nn.Parameter(torch.empty(width)) if score == "additive" else None
        if self.score is not None:
            nn.init.normal_(self.score, std=1.0 / math.sqrt(self.head_width))

    def parts(self, side: Side) -> tuple[Part, ...]:
        found = super().parts(side)
        if side == "inner" and self.score is not None:
            found = (*found, Part(self, "score", 0, run=self.head_width))
        return found

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: the memory, and keep_BS, bool, False at steps of it that nothing may attend to, or None."""
        if not is_tracing():
            return self.run(x, *context)
        return self.stand_in(x, (*x.shape[:-1], self.out_channels), context[0])

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        memory_BSD, keep_BS = context
        assert memory_BSD is not None
        q, k, v = self.q(x), self.k(memory_BSD), self.v(memory_BSD)
        if self.score is None:
            return self._attend(q, k, v, None if keep_BS is None else keep_BS[:, None, None, :], is_causal=False)
        q_BNTK, k_BNSK, v_BNSK = (torch.unflatten(y, 2, (-1, self.head_width)).transpose(1, 2) for y in (q, k, v))
        met_BNTSK = torch.tanh(q_BNTK[:, :, :, None] + k_BNSK[:, :, None])
        weights_BNTS = (met_BNTSK * self.score.view(-1, 1, 1, self.head_width)).sum(4).softmax(3)
        if keep_BS is not None:
            # After the softmax, not −inf before it, whose range static int8 could not have; the scores are bounded.
            weights_BNTS = weights_BNTS * keep_BS[:, None, None, :].to(weights_BNTS.dtype)
            weights_BNTS = weights_BNTS / weights_BNTS.sum(3, keepdim=True)
        y_BNTK = F.dropout(weights_BNTS, self.dropout, self.training) @ v_BNSK
        out: Tensor = self.proj(y_BNTK.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        return super().extra_repr() + (", additive" if self.score is not None else "")


def _causal(steps: int, seen: int, device: torch.device) -> Tensor:
    """(steps, seen) bool: each step, of the last of those seen, sees the ones up to itself."""
    return torch.arange(seen, device=device)[None, :] <= _at(steps, seen, device)[:, None]


class Positions(Structured):
    """Adds to each step what tells where it stands: (B, L, D) -> (B, L, D), L ≤ `length`.

    kind: "learned", or "sinusoidal" (Vaswani et al., 2017, section 3.5): a table too, so that a cut keeps its columns.
    """

    coupled = True

    def __init__(self, width: int, *, length: int, kind: str = "learned") -> None:
        super().__init__()
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(length, width))
            nn.init.normal_(self.table, std=0.02)
        elif kind == "sinusoidal":
            self.register_buffer("table", _sinusoids(length, width))
        else:
            raise ValueError(f"No positions of kind '{kind}'; the kinds are learned, sinusoidal.")

    @property
    def in_channels(self) -> int:
        return self.table.shape[1]

    @property
    def out_channels(self) -> int:
        return self.table.shape[1]

    def parts(self, side: Side) -> tuple[Part, ...]:
        return (Part(self, "table", 1),)

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: steps_L, int64, where the steps stand; or None where they stand at 0, 1, …"""
        steps_L = context[0] if context else None
        if steps_L is None and isinstance(x.shape[1], torch.SymInt):
            # exported at any length: the bound of a slice would make the length of the example the only one
            steps_L = torch.arange(x.shape[1], device=x.device)
        return x + (self.table[: x.shape[1]] if steps_L is None else F.embedding(steps_L, self.table))


def _sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines in the even columns, cosines in the odd ones."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle)[:, : width // 2]
    return table


class TiedOutput(Structured):
    """From a step to one number a token by the embedding's own rows: (B, L, D) -> (B, L, V). Press and Wolf, 2017,
    arXiv:1608.05859. It has no tensor of its own: where the embedding loses a channel, it has lost it too.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: as a module of this one too, its weights would be stored twice
        self._width = embedding.embedding_dim

    @property
    def in_channels(self) -> int:
        return self._width

    @property
    def out_channels(self) -> int:
        return self._embedding[0].num_embeddings

    def parts(self, side: Side) -> tuple[Part, ...]:
        if side == "in":
            return ()
        raise ValueError("The tokens of an TiedOutput cannot be cut; they are those of its embedding.")

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        assert side == "in", "the tokens are those of the embedding"
        self._width -= len(set(drop))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        out: Tensor = F.linear(x, self._embedding[0].weight)
        return out

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"
