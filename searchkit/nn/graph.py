"""Convolution over a graph: messages along edges, as sums over what points to a node; and the layers that need care.

A graph is its nodes (N, C) and its edges (2, E), int64: messages go from the first row's nodes to the second's, so a
graph without directions has every edge twice. Many graphs are one graph in parts (`disjoint`). The sums are scatters:
ScatterElements in an exported file, never ScatterND, whose sums ONNX Runtime 1.31 gets wrong on more than one thread
(measured: 100,000 ones into 50 rows were off by 1,570; it has no lock). Other layers are in `searchkit.nn.parts`.

Axes: N node, E edge, G graph, C channel, H head, K channel of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nn.parts import Part, Side, Structured

# ── Sums over segments ───────────────────────────────────────────────────────────────────────────────────────────────


def segment_sum(values_EX: Tensor, index_E: Tensor, n: int) -> Tensor:
    """(n, X): row i is the sum of the values whose index is i, 0 where there are none; float32. X: any axes."""
    if values_EX.is_floating_point():
        values_EX = values_EX.float()  # thousands of small numbers: under autocast half of them would be lost
    total = values_EX.new_zeros((n, *values_EX.shape[1:]))
    if torch.compiler.is_exporting():
        wide = index_E.view(-1, *[1] * (values_EX.ndim - 1)).expand_as(values_EX)
        return total.scatter_add(0, wide, values_EX)
    return total.index_add(0, index_E, values_EX)


def segment_max(values_EC: Tensor, index_E: Tensor, least_NC: Tensor) -> Tensor:
    """(N, C): the largest of `least_NC` and of the values whose index is that row."""
    wide = index_E[:, None].expand_as(values_EC)
    return least_NC.scatter_reduce(0, wide, values_EC.to(least_NC.dtype), "amax", include_self=True)


def owners(counts_G: Tensor, total: int) -> Tensor:
    """(total,) int64: for each entry the number of the example that it belongs to, where example g has counts_G[g]."""
    starts = counts_G.cumsum(0) - counts_G
    marks = segment_sum(torch.ones_like(starts), starts, total + 1)  # one more, for empty examples at the end
    return marks.cumsum(0)[:total] - 1


def disjoint(edges: Tensor, n_nodes_G: Tensor, n_edges_G: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Many graphs as one. edges (2, E) number the nodes of each graph from 0; n: nodes in all. Returns the edges by the
    nodes of the whole, and (N,) the graph of each node.
    """
    first_G = n_nodes_G.cumsum(0) - n_nodes_G
    return edges + first_G[owners(n_edges_G, edges.shape[1])], owners(n_nodes_G, n)


def degrees(edges: Tensor, like_NC: Tensor) -> Tensor:
    """(N, 1) float32: how many edges point to each node."""
    ones = like_NC.new_ones((edges.shape[1], 1), dtype=torch.float32)
    return segment_sum(ones, edges[1], like_NC.shape[0])


def neighbours_sum(x_NC: Tensor, edges: Tensor) -> Tensor:
    """(N, C): the sum over the nodes that point to a node, itself left out."""
    return segment_sum(x_NC.index_select(0, edges[0]), edges[1], x_NC.shape[0])


def pool_nodes(x_NC: Tensor, graph_N: Tensor, n_nodes_G: Tensor, how: str) -> Tensor:
    """(G, C): sum, mean or max over the nodes of each graph; 0 for a graph of none, and at least 0 for max, whose
    values come from a ReLU.
    """
    n = n_nodes_G.shape[0]
    if how == "max":
        return segment_max(x_NC, graph_N, x_NC.new_zeros((n, x_NC.shape[1])))
    total = segment_sum(x_NC, graph_N, n)
    return total if how == "sum" else total / n_nodes_G.clamp(min=1)[:, None].to(total.dtype)


# ── Layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class GraphConvolution(Structured):
    """The sum of a node and its neighbours, each divided by the roots of both degrees, times a matrix: (N, C) ->
    (N, D). Kipf and Welling, 2017, arXiv:1609.02907, equation 2; the loops are added here. The bias comes after the
    sum, which is why this is no nn.Linear.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    def parts(self, side: Side) -> tuple[Part, ...]:
        if side == "in":
            return (Part(self, "weight", 1),)
        return (Part(self, "weight", 0), Part(self, "bias", 0))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: edges (2, E), and degrees (N, 1)."""
        edges, degree = context
        assert edges is not None and degree is not None
        root = torch.rsqrt(degree + 1.0)
        scaled = F.linear(x, self.weight) * root
        return (neighbours_sum(scaled, edges) + scaled) * root + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


class GraphAttention(Structured):
    """Attention over a node and its neighbours: (N, C) -> (N, H·K), the heads side by side, or (N, K), their mean.
    Velickovic et al., 2018, arXiv:1710.10903.

    Heads are cut whole. Side by side they are the outputs, and K channels in a row go together; where their mean is
    taken they are inner units, and the outputs are channels that all heads have. Softmax without a sort: each score
    less the largest of its node.
    """

    def __init__(
        self, inputs: int, head_width: int, *, heads: int, mean: bool = False, dropout: float = 0.0, slope: float = 0.2
    ) -> None:
        super().__init__()
        self.mean, self.dropout, self.slope = mean, dropout, slope
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(heads * head_width, inputs))
        self.from_source = nn.Parameter(torch.empty(heads * head_width))
        self.from_target = nn.Parameter(torch.empty(heads * head_width))
        self.bias = nn.Parameter(torch.zeros(head_width if mean else heads * head_width))
        nn.init.xavier_uniform_(self.weight)
        bound = (6.0 / (1 + head_width)) ** 0.5
        nn.init.uniform_(self.from_source, -bound, bound)
        nn.init.uniform_(self.from_target, -bound, bound)

    @property
    def head_width(self) -> int:
        return self.weight.shape[0] // self.heads

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        return self.bias.shape[0]

    @property
    def out_run(self) -> int:  # type: ignore[override]
        return 1 if self.mean else self.head_width

    @property
    def n_inner(self) -> int:  # type: ignore[override]
        """Heads, where no other module sees them."""
        return self.heads if self.mean else 0

    def parts(self, side: Side) -> tuple[Part, ...]:
        if side == "in":
            return (Part(self, "weight", 1),)
        rows = ("weight", "from_source", "from_target")
        if side == "inner":
            return tuple(Part(self, name, 0, run=self.head_width) for name in rows)
        blocks = self.heads if self.mean else 1
        return (*(Part(self, name, 0, blocks=blocks) for name in rows), Part(self, "bias", 0))

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        """Raises ValueError where a head would be cut in part."""
        gone, run = set(drop), self.out_run
        if side == "out" and any(len({u // run * run + k for k in range(run)} - gone) for u in gone):
            raise ValueError(f"A cut of outputs {sorted(gone)} leaves a part of a head of {run} channels.")
        left = self.heads - len(gone) // run if side == "out" and not self.mean else self.heads
        left = self.heads - len(gone) if side == "inner" else left
        super().cut_(side, drop)
        self.heads = left

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: edges (2, E)."""
        edges, n = context[0], x.shape[0]
        assert edges is not None
        h_NHK = F.linear(x, self.weight).float().view(n, self.heads, -1)
        source_NH = (h_NHK * self.from_source.view(self.heads, -1)).sum(2)
        target_NH = (h_NHK * self.from_target.view(self.heads, -1)).sum(2)
        along_EH = source_NH.index_select(0, edges[0]) + target_NH.index_select(0, edges[1])
        along_EH, own_NH = (F.leaky_relu(score, self.slope) for score in (along_EH, source_NH + target_NH))
        largest_NH = segment_max(along_EH.detach(), edges[1], own_NH.detach())
        along_EH = (along_EH - largest_NH.index_select(0, edges[1])).exp()
        own_NH = (own_NH - largest_NH).exp()
        total_NH1 = (segment_sum(along_EH, edges[1], n) + own_NH)[:, :, None]
        if self.dropout > 0 and self.training:
            along_EH, own_NH = F.dropout(along_EH, self.dropout), F.dropout(own_NH, self.dropout)
        messages_EHK = along_EH[:, :, None] * h_NHK.index_select(0, edges[0])
        summed_NHK = segment_sum(messages_EHK.flatten(1), edges[1], n).view(n, self.heads, -1)
        y_NHK = (summed_NHK + own_NH[:, :, None] * h_NHK) / total_NH1
        y: Tensor = (y_NHK.mean(1) if self.mean else y_NHK.flatten(1)) + self.bias
        return y

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.head_width}, heads={self.heads}, mean={self.mean}"
