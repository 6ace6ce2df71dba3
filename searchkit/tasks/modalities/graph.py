"""Graphs: one whose nodes have labels, or many with one label each; nodes have features, edges have no direction.

One graph is shared by all examples, which are its nodes: training sees the features and edges of every node, and the
labels of the training nodes alone (transductive; Yang et al. 2016, arXiv:1603.08861). With many graphs each is an
example, and a batch is one graph in separate parts. Edges are stored in both directions, once, without loops. Features
that are all 0 or 1 are divided by their sum (as Kipf & Welling 2017 do with words); others are standardized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput, NotInstalled
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, standard_dtype
from searchkit.data.graphs import many_graphs, node_graph
from searchkit.data.scaling import channel_statistics
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {
    "graph-shapes": "600 graphs of 8 to 20 nodes by what they are: ring, tree, grid, hub or clusters (generated)",
    "sbm": "nodes of a stochastic block model by their block: 600 nodes, 5 blocks, noisy features (generated)",
    "karate": "members of a karate club by the side that they took: 34 nodes, 78 edges (Zachary 1977; networkx)",
}


class ScaleNodes(nn.Module):
    """Scale the features of nodes, (N, F), to float32: divide by their sum if `by_sum`, else standardize."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray, *, by_sum: bool) -> None:
        super().__init__()
        self.by_sum = by_sum
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, nodes: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Scaled features, and the other inputs as they are."""
        values = nodes.to(torch.float32)
        if self.by_sum:
            # A node whose features are all 0 stays 0; other sums of 0 and 1 are at least 1.
            return values / values.sum(1, keepdim=True).clamp(min=1.0), *rest
        return (values - self.mean) / self.std, *rest


@dataclass(frozen=True)
class Graph:
    """The modality of graphs; it has no augmentations."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(default_factory=dict)
    corrupts: frozenset[str] = frozenset()
    form = "graph"

    def arrange(self, found: RawDataset) -> Arrays:
        """Lay out nodes and edges, checked.

        Raises:
            BadInput: Features are not finite numbers.
        """
        if "edges" not in found.more:
            raise BadInput(f"{found.where} has no edges, so it is no graph; give them, or leave out --modality graph.")
        if "nodes" not in found.more:
            nodes = standard_dtype(found.x, found.where)
            return {"nodes": nodes, "edges": found.more["edges"], "query": np.arange(len(nodes), dtype=np.int64)}
        nodes = standard_dtype(found.more["nodes"], found.where)
        counts = {"n_nodes": found.x, "n_edges": found.more["n_edges"]}
        return {"nodes": nodes, "edges": found.more["edges"], **counts}

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Raw inputs: nodes and edges, and which nodes are asked for or how many each graph has."""
        nodes = data.inputs["nodes"]
        width, kind = nodes.shape[1], nodes.dtype.name
        if "query" in data.inputs:
            return (
                TensorSpec("nodes", (None, width), kind, batched=False),
                TensorSpec("edges", (2, None), "int64", batched=False),
                TensorSpec("query", (), "int64"),
            )
        return (
            TensorSpec("nodes", (width,), kind, counted_by="n_nodes"),
            TensorSpec("edges", (2,), "int64", axis=1, counted_by="n_edges"),
            TensorSpec("n_nodes", (), "int64"),
            TensorSpec("n_edges", (), "int64"),
        )

    def preprocessor(self, data: Dataset) -> ScaleNodes:
        """Feature scaling with statistics of the training nodes, or of the nodes of the training graphs."""
        nodes, rows = data.inputs["nodes"], data.rows["train"]
        if "query" not in data.inputs:
            # Here `rows` are graphs: what is taken are the nodes of the training graphs, and all of them count.
            nodes = batching.take(self.ports(data), data.inputs, rows)["nodes"]
            rows = np.arange(len(nodes))
        by_sum = bool(((nodes[rows] == 0) | (nodes[rows] == 1)).all())
        return ScaleNodes(*channel_statistics(nodes, rows, 1), by_sum=by_sum)

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Refuse: graphs are not reconstructed.

        Raises:
            BadInput: Always.
        """
        raise BadInput(f"{data.where} holds graphs, which cannot be reconstructed; give labels.")

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


MODALITIES = {"graph": Graph()}


def load(source: Source) -> Task:
    """Load a packaged task: `graph-shapes`, `sbm` or `karate`."""
    makers = {"karate": _karate, "sbm": _block_model, "graph-shapes": _shapes}
    assert source.task is not None
    return make_task(makers[source.task](), source)


def _karate() -> RawDataset:
    """Zachary's karate club (1977, An information flow model for conflict and fission in small groups).

    A member has no features but their identity: one column each.
    """
    try:
        from networkx import karate_club_graph
    except ImportError as error:
        raise NotInstalled(
            "The task 'karate' needs the package networkx, which is not installed; run pip install 'searchkit[demo]', "
            "or take the task sbm."
        ) from error

    club = karate_club_graph()
    sides = np.array([club.nodes[n]["club"] for n in range(len(club))])
    identity = np.eye(len(club), dtype=np.uint8)
    return node_graph("karate", identity, np.array(club.edges), sides, "the task 'karate'")


def _block_model() -> RawDataset:
    """A stochastic block model (Holland, Laskey & Leinhardt 1983) with node features.

    Features are as in Deshpande et al. 2018 (arXiv:1807.09596): neither they nor the edges alone identify the block
    well.
    """
    rng = np.random.default_rng(1983)
    blocks, n, width = 5, 600, 16
    block = np.sort(rng.integers(0, blocks, n))
    chance = np.where(block[:, None] == block, 0.05, 0.006)
    edges = np.argwhere(np.triu(rng.random((n, n)) < chance, 1))
    centers = rng.standard_normal((blocks, width)) * 0.45
    nodes = (centers[block] + rng.standard_normal((n, width))).astype(np.float32)
    return node_graph("sbm", nodes, edges, block, "the task 'sbm'")


SHAPES = ("ring", "tree", "grid", "hub", "clusters")


def _shapes() -> RawDataset:
    """Five kinds of graphs that differ in their structure alone: every node has the one feature 1.

    A tenth of the edges is noise, so that no rule is without exception.
    """
    rng = np.random.default_rng(736)
    kinds = rng.permutation(np.repeat(np.arange(len(SHAPES)), 120))
    graphs = [_shape(SHAPES[kind], int(rng.integers(8, 21)), rng) for kind in kinds]
    return many_graphs("graph-shapes", graphs, kinds, "the task 'graph-shapes'", labels=SHAPES)


def _shape(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    node = np.arange(1, n)
    match kind:
        case "ring":
            edges = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)
        case "tree":  # each node hangs on one of those before it
            edges = np.stack([node, (rng.random(n - 1) * node).astype(np.int64)], 1)
        case "grid":  # two rows
            half = n // 2
            one = np.arange(half - 1)
            edges = np.concatenate(
                [np.stack([one, one + 1], 1), np.stack([one + half, one + half + 1], 1),
                 np.stack([np.arange(half), np.arange(half) + half], 1)]
            )  # fmt: skip
            # An odd number of nodes loses one, since both rows are equally long.
            n = 2 * half
        case "hub":  # all hang on one, and a few on their neighbor
            some = node[:-1][rng.random(n - 2) < 0.3]
            edges = np.concatenate([np.stack([np.zeros_like(node), node], 1), np.stack([some, some + 1], 1)])
        case _:  # two groups, most of each joined, and one edge between them
            side = np.arange(n) < n // 2
            inside = np.triu(rng.random((n, n)) < 0.6, 1) & (side[:, None] == side)
            edges = np.concatenate([np.argwhere(inside), [[0, n - 1]]])
    # A twentieth of the edges is dropped, and a tenth as many lie between random nodes. Nodes are renumbered, so that
    # their order does not give the kind away; `many_graphs` removes loops and repeats.
    noise = rng.integers(0, n, (max(1, len(edges) // 10), 2))
    shuffled = rng.permutation(n)
    return np.ones((n, 1), np.uint8), shuffled[np.concatenate([edges[rng.random(len(edges)) > 0.05], noise])]
