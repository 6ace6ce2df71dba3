"""Graph convolution and attention, as sums over the edges that point to a node.

A graph has nodes (N, C) and edges (2, E), int64. Messages go from the nodes in the first row to those in the second, so
an undirected graph lists each edge twice. A batch of graphs is one graph of separate parts (`disjoint`).

Sums use scatter operations: ScatterElements in an exported file, never ScatterND. ONNX Runtime 1.31 sums wrongly in
ScatterND on more than one thread, since it takes no lock (measured: 100,000 ones added into 50 rows were off by up to
1,570).

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
    """Sum values by index.

    Args:
        values_EX: Values, with any further axes X.
        index_E: Row of the result that each value is added to, int64.
        n: Rows of the result.

    Returns:
        The sums, (n, X), 0 for rows without values; float32 for floating-point values.
    """
    if values_EX.is_floating_point():
        # Under autocast a bf16 sum of thousands of small numbers would lose most of them.
        values_EX = values_EX.float()
    total = values_EX.new_zeros((n, *values_EX.shape[1:]))
    if torch.compiler.is_exporting():
        # scatter_add exports as ScatterElements; index_add would export as ScatterND (see the module's docstring).
        wide = index_E.view(-1, *[1] * (values_EX.ndim - 1)).expand_as(values_EX)
        return total.scatter_add(0, wide, values_EX)
    return total.index_add(0, index_E, values_EX)


def segment_max(values_EC: Tensor, index_E: Tensor, least_NC: Tensor) -> Tensor:
    """Take the maximum of values by index.

    Args:
        values_EC: Values.
        index_E: Row of the result that each value belongs to, int64.
        least_NC: Initial values of the result.

    Returns:
        The maxima, (N, C), at least `least_NC`.
    """
    wide = index_E[:, None].expand_as(values_EC)
    return least_NC.scatter_reduce(0, wide, values_EC.to(least_NC.dtype), "amax", include_self=True)


def owners(counts_G: Tensor, total: int) -> Tensor:
    """Return the example that each entry belongs to.

    Args:
        counts_G: Number of entries of each example.
        total: Number of all entries, the sum of the counts.

    Returns:
        Indices of examples, (total,) int64, ascending.
    """
    starts = counts_G.cumsum(0) - counts_G
    # Instead of repeat_interleave, whose output size would depend on values in the exported graph.
    marks = segment_sum(torch.ones_like(starts), starts, total + 1)  # one more, for empty examples at the end
    return marks.cumsum(0)[:total] - 1


def disjoint(edges: Tensor, n_nodes_G: Tensor, n_edges_G: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Combine a batch of graphs into one graph.

    Args:
        edges: Edges of all graphs, (2, E); each graph numbers its nodes from 0.
        n_nodes_G: Nodes of each graph.
        n_edges_G: Edges of each graph.
        n: Number of all nodes.

    Returns:
        The edges in the numbering of the combined graph, (2, E), and the graph of each node, (N,).
    """
    first_G = n_nodes_G.cumsum(0) - n_nodes_G
    return edges + first_G[owners(n_edges_G, edges.shape[1])], owners(n_nodes_G, n)


def degrees(edges: Tensor, like_NC: Tensor) -> Tensor:
    """Return the number of edges that point to each node, (N, 1) float32.

    Args:
        edges: Edges, (2, E).
        like_NC: Node features, for the number of nodes and the device.
    """
    ones = like_NC.new_ones((edges.shape[1], 1), dtype=torch.float32)
    return segment_sum(ones, edges[1], like_NC.shape[0])


def neighbors_sum(x_NC: Tensor, edges: Tensor) -> Tensor:
    """Return the sum over the nodes that point to each node, (N, C), without the node itself."""
    return segment_sum(x_NC.index_select(0, edges[0]), edges[1], x_NC.shape[0])


def pool_nodes(x_NC: Tensor, graph_N: Tensor, n_nodes_G: Tensor, how: str) -> Tensor:
    """Pool the nodes of each graph: (N, C) -> (G, C).

    Args:
        x_NC: Node features; for "max" not negative, e.g. after a ReLU.
        graph_N: Graph of each node.
        n_nodes_G: Nodes of each graph.
        how: "sum", "mean" or "max".

    Returns:
        The pooled features, 0 for a graph without nodes.
    """
    n = n_nodes_G.shape[0]
    if how == "max":
        return segment_max(x_NC, graph_N, x_NC.new_zeros((n, x_NC.shape[1])))
    total = segment_sum(x_NC, graph_N, n)
    return total if how == "sum" else total / n_nodes_G.clamp(min=1)[:, None].to(total.dtype)


# ── Layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class GraphConvolution(Structured):
    """Graph convolution: (N, C) -> (N, D). Kipf and Welling 2017, arXiv:1609.02907, equation 2.

    Sums a node and its neighbors, each divided by the square roots of both degrees, and applies a matrix. Self-loops
    are added here. This is not an nn.Linear because the bias follows the sum.

    Args:
        inputs: Channels C of a node.
        outputs: Channels D of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # An own layer: torch-pruning 1.6 does nothing to PyTorch Geometric's GCNConv.
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return self.weight.shape[0]

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the channels of a side."""
        if side == "in":
            return (Part(self, "weight", 1),)
        return (Part(self, "weight", 0), Part(self, "bias", 0))

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Convolve.

        Args:
            x: Node features, (N, C).
            context: Edges (2, E) and degrees (N, 1).
        """
        edges, degree = context
        assert edges is not None and degree is not None
        root = torch.rsqrt(degree + 1.0)
        scaled = F.linear(x, self.weight) * root
        return (neighbors_sum(scaled, edges) + scaled) * root + self.bias

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.in_channels}, {self.out_channels}"


class GraphAttention(Structured):
    """Attention over a node and its neighbors: (N, C) -> (N, H·K), or (N, K) for the mean of the heads.

    Velickovic et al. 2018, arXiv:1710.10903. Pruning removes whole heads. If heads are concatenated, they are output
    channels, and the K channels of a head go together. If their mean is taken, heads are inner units, and an output
    channel is in every head.

    Args:
        inputs: Channels C of a node.
        head_width: Channels K of a head.
        heads: Number of heads H.
        mean: Whether to average the heads instead of concatenating them.
        dropout: Dropout of the attention weights.
        slope: Negative slope of the LeakyReLU.
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
        """Channels of a head."""
        return self.weight.shape[0] // self.heads

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return self.bias.shape[0]

    @property
    def out_run(self) -> int:  # type: ignore[override]
        """Consecutive output channels that are cut together: those of a head."""
        return 1 if self.mean else self.head_width

    @property
    def n_inner(self) -> int:  # type: ignore[override]
        """Number of heads if they are averaged, else 0."""
        return self.heads if self.mean else 0

    def parts(self, side: Side) -> tuple[Part, ...]:
        """Return the slices of the units of a side."""
        if side == "in":
            return (Part(self, "weight", 1),)
        rows = ("weight", "from_source", "from_target")
        if side == "inner":
            return tuple(Part(self, name, 0, run=self.head_width) for name in rows)
        blocks = self.heads if self.mean else 1
        return (*(Part(self, name, 0, blocks=blocks) for name in rows), Part(self, "bias", 0))

    def cut_(self, side: Side, drop: Sequence[int]) -> None:
        """Remove units of a side, in place.

        Raises:
            ValueError: If only a part of a head would be removed.
        """
        gone, run = set(drop), self.out_run
        if side == "out" and any(len({u // run * run + k for k in range(run)} - gone) for u in gone):
            raise ValueError(f"A cut of outputs {sorted(gone)} leaves a part of a head of {run} channels.")
        left = self.heads - len(gone) // run if side == "out" and not self.mean else self.heads
        left = self.heads - len(gone) if side == "inner" else left
        super().cut_(side, drop)
        self.heads = left

    @torch.no_grad()
    def mask_(self, side: Side, drop: Sequence[int]) -> None:
        """The mean is over the heads that stay: their values grow, and their scores do not."""
        super().mask_(side, drop)
        if side == "inner":
            more = self.heads / (self.heads - len(set(drop)))
            self.weight.mul_(more)
            self.from_source.div_(more)
            self.from_target.div_(more)

    def run(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: Node features, (N, C).
            context: Edges, (2, E).
        """
        edges, n = context[0], x.shape[0]
        assert edges is not None
        h_NHK = F.linear(x, self.weight).float().view(n, self.heads, -1)
        source_NH = (h_NHK * self.from_source.view(self.heads, -1)).sum(2)
        target_NH = (h_NHK * self.from_target.view(self.heads, -1)).sum(2)
        along_EH = source_NH.index_select(0, edges[0]) + target_NH.index_select(0, edges[1])
        along_EH, own_NH = (F.leaky_relu(score, self.slope) for score in (along_EH, source_NH + target_NH))
        # Softmax over the edges of a node, without sorting them: the largest score is subtracted for stability, and it
        # needs no gradient, since it cancels.
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
        """Describe the module for `print(model)`."""
        return f"{self.in_channels}, {self.head_width}, heads={self.heads}, mean={self.mean}"
