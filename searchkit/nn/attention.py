"""Self- and cross-attention, and terms for the relative position of two steps.

Vaswani et al. 2017, arXiv:1706.03762. Each module says which slices belong to a head or channel, as described in
`searchkit.nn.parts`. Attention over a graph is in `searchkit.nn.graph`.

Axes: B batch, L and T step, S step of the attended sequence, D width, N attention head, K channel of a head, R relative
position.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured, is_tracing

REACH = 16
"""Largest relative position that is distinguished, in steps each way; Shaw et al. (section 4.3) gain nothing beyond."""

DISTANCES = ("bias", "relative", "disentangled")
"""The kinds of relative-position terms, see `RelativePositionBias`."""


class RelativePositionBias(nn.Module):
    """Attention scores with a term for the relative position of two steps, clipped to ±REACH.

    There are R = 2 · REACH + 1 relative positions. The kinds are:

    - "bias": one number per head and relative position (T5: Raffel et al. 2020, arXiv:1910.10683, section 2.1; without
      its logarithmic buckets).
    - "relative": the product of the query with one vector per relative position, shared by the heads (Shaw et al. 2018,
      arXiv:1803.02155, equation 4).
    - "disentangled": the product of the query with a key of the relative position, plus the product of the key with a
      query of it, for each head (DeBERTa: He et al. 2021, arXiv:2006.03654, equation 4). The paper projects one table
      of embeddings with a matrix per layer. These products are constants after training, and any values are possible if
      a table has no more rows than columns, so the products themselves, (heads, K, R), are the parameters here.

    Args:
        heads: Number of attention heads.
        head_width: Channels of a head.
        kind: One of DISTANCES.

    Raises:
        ValueError: If the kind is unknown.
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
            raise ValueError(f"No relative-position term named '{kind}'; they are {', '.join(DISTANCES)}.")
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)
        # A sum of three products has three times the variance of one (He et al. 2021, section 3.1).
        self.scale = 1.0 / math.sqrt((3 if kind == "disentangled" else 1) * head_width)

    def parts(self) -> tuple[Part, ...]:
        """Return the slices that belong to each head."""
        shared = self.queries is None
        return tuple(Part(self, name, 0) for name, _ in self.named_parameters() if not (shared and name == "keys"))

    def forward(self, q_BNLK: Tensor, k_BNSK: Tensor) -> Tensor:
        """Return the attention scores, (B, N, L, S): content plus relative position, scaled.

        Args:
            q_BNLK: Queries.
            k_BNSK: Keys; the L queries are the last of the S steps.
        """
        scores_BNLS = q_BNLK @ k_BNSK.transpose(2, 3)
        steps, seen = scores_BNLS.shape[2:]
        apart_LS = _at(steps, seen, q_BNLK.device)[:, None] - torch.arange(seen, device=q_BNLK.device)
        index_LS = apart_LS.clamp(-REACH, REACH) + REACH
        if self.keys is not None:
            scores_BNLS = scores_BNLS + _chosen(q_BNLK @ self.keys, index_LS)
        if self.queries is not None:
            # Seen from the key, the relative position has the opposite sign: hence 2 · REACH − index.
            of_keys_BNSL = _chosen(k_BNSK @ self.queries, 2 * REACH - index_LS.t())
            scores_BNLS = scores_BNLS + of_keys_BNSL.transpose(2, 3)
        scores_BNLS = scores_BNLS * self.scale
        return scores_BNLS if self.bias is None else scores_BNLS + self.bias[:, index_LS]


def _chosen(by_distance_BNLR: Tensor, index_LS: Tensor) -> Tensor:
    """(B, N, L, S): the products, for each pair of steps, with their relative position."""
    return by_distance_BNLR.gather(3, index_LS.expand(*by_distance_BNLR.shape[:2], -1, -1))


class Attention(Structured):
    """Multi-head self-attention: (B, L, D) -> (B, L, D). Vaswani et al. 2017.

    Pruning removes whole heads. The width of a head stays, since the scale of the scores depends on it.

    Args:
        width: Width D, a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Dropout of the attention weights.
        causal: Whether a step attends only to itself and earlier steps.
        distances: Kind of relative-position term, one of DISTANCES; "" for none.

    Raises:
        ValueError: If the width cannot be split into the heads.
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
        # Plain Linear layers instead of nn.MultiheadAttention, whose heads torch-pruning 1.6 fails to prune globally
        # (AttributeError).
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.distances = RelativePositionBias(heads, self.head_width, kind=distances) if distances else None

    @property
    def in_channels(self) -> int:
        """Input width."""
        return self.q.weight.shape[1]

    @property
    def out_channels(self) -> int:
        """Output width."""
        return self.proj.weight.shape[0]

    @property
    def n_inner(self) -> int:  # type: ignore[override]
        """Number of attention heads."""
        return self.q.weight.shape[0] // self.head_width

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the units of a side; the inner units are the heads."""
        if side == "out":
            return (Part(self.proj, "weight", 0), Part(self.proj, "bias", 0))
        qkv = (self.q, self.k, self.v)
        if side == "in":
            return tuple(Part(linear, "weight", 1) for linear in qkv)
        # A head is a run of rows in q, k and v, and the same run of columns in the projection that reads it.
        rows = tuple(Part(linear, name, 0, run=self.head_width) for linear in qkv for name in ("weight", "bias"))
        of_distances = () if self.distances is None else self.distances.parts()
        return (*rows, *of_distances, Part(self.proj, "weight", 1, run=self.head_width))

    def refit_(self) -> None:
        """Update the sizes of the Linear layers after a cut."""
        for linear in (self.q, self.k, self.v, self.proj):
            linear.out_features, linear.in_features = linear.weight.shape

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: Steps, (B, L, D).
            context: Optionally keep_BL, bool: False for steps that nothing may attend to.
        """
        keep_BL = context[0] if context else None
        mask = None if keep_BL is None else keep_BL[:, None, None, :]
        if mask is not None and self.causal:
            mask = mask & _causal(x.shape[1], x.shape[1], x.device)
        return self._attend(self.q(x), self.k(x), self.v(x), mask, is_causal=self.causal and mask is None)

    @property
    def memory(self) -> int:
        """Numbers that the cache holds per step: its keys and values."""
        return 2 * self.k.weight.shape[0]

    def resume(self, x: Tensor, past_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """Attend causally from steps that follow P cached ones.

        Args:
            x: The new steps, (B, L, D).
            past_BPM: Cache of the steps before, P ≥ 0.

        Returns:
            The outputs of the new steps, (B, L, D), and their cache, (B, L, M).
        """
        assert self.causal, "only causal attention can be continued: later steps change the outputs of earlier ones"
        memory_BLM = torch.cat([self.k(x), self.v(x)], 2)
        k, v = torch.cat([past_BPM, memory_BLM], 1).chunk(2, 2)
        # A bool mask, although the exported graph then has a guard for rows that see nothing: an additive mask of −inf
        # would enter the range that static int8 calibration sees, and one 8-bit step would cover all real scores.
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
        """Describe the module for `print(model)`."""
        return f"{self.in_channels}, heads={self.n_inner}" + (", causal" if self.causal else "")


def _at(steps: int, seen: int, device: torch.device) -> Tensor:
    """(steps,): positions of the last `steps` of the steps seen."""
    return torch.arange(steps, device=device) + (seen - steps)


class CrossAttention(Attention):
    """Multi-head attention of one sequence's steps to another's: x (B, T, D), memory (B, S, D) -> (B, T, D).

    Both sequences have the same channels, which are cut from both at once.

    Args:
        width: Width D, a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Dropout of the attention weights.
        score: "dot", the scaled product (Vaswani et al. 2017), or "additive", a layer of tanh units over query and key
            (Bahdanau et al. 2015, arXiv:1409.0473).

    Raises:
        ValueError: If the score is unknown or the width cannot be split into the heads.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0, score: str = "dot") -> None:
        super().__init__(width, heads=heads, dropout=dropout)
        if score not in ("dot", "additive"):
            raise ValueError(f"No score named '{score}'; they are dot, additive.")
        self.score = nn.Parameter(torch.empty(width)) if score == "additive" else None
        if self.score is not None:
            nn.init.normal_(self.score, std=1.0 / math.sqrt(self.head_width))

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the units of a side; an additive score has one slice per head."""
        found = super().parts(side)
        if side == "inner" and self.score is not None:
            found = (*found, Part(self, "score", 0, run=self.head_width))
        return found

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Attend to another sequence.

        Args:
            x: Steps that attend, (B, T, D).
            context: The attended sequence (B, S, D), and keep_BS, bool, False for steps that nothing may attend to, or
                None.
        """
        if not is_tracing():
            return self.run(x, *context)
        return self.stand_in(x, (*x.shape[:-1], self.out_channels), context[0])

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Attend; see `forward`."""
        memory_BSD, keep_BS = context
        assert memory_BSD is not None
        q, k, v = self.q(x), self.k(memory_BSD), self.v(memory_BSD)
        if self.score is None:
            return self._attend(q, k, v, None if keep_BS is None else keep_BS[:, None, None, :], is_causal=False)
        q_BNTK, k_BNSK, v_BNSK = (torch.unflatten(y, 2, (-1, self.head_width)).transpose(1, 2) for y in (q, k, v))
        met_BNTSK = torch.tanh(q_BNTK[:, :, :, None] + k_BNSK[:, :, None])
        weights_BNTS = (met_BNTSK * self.score.view(-1, 1, 1, self.head_width)).sum(4).softmax(3)
        if keep_BS is not None:
            # Masked after the softmax, not with −inf before it: static int8 could not cover that range. The scores are
            # bounded (tanh times a vector), so the softmax of all steps cannot overflow.
            weights_BNTS = weights_BNTS * keep_BS[:, None, None, :].to(weights_BNTS.dtype)
            weights_BNTS = weights_BNTS / weights_BNTS.sum(3, keepdim=True)
        y_BNTK = F.dropout(weights_BNTS, self.dropout, self.training) @ v_BNSK
        out: Tensor = self.proj(y_BNTK.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return super().extra_repr() + (", additive" if self.score is not None else "")


def _causal(steps: int, seen: int, device: torch.device) -> Tensor:
    """(steps, seen) bool: each of the last `steps` steps sees itself and the earlier ones."""
    return torch.arange(seen, device=device)[None, :] <= _at(steps, seen, device)[:, None]
