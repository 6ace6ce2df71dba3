"""Graphs: one whose nodes have labels, or many that have one each; nodes with features, edges without directions.

One graph is shared by all examples, which are its nodes: training sees the features and edges of every node, and the
labels of the training nodes alone (transductive; Yang et al. 2016, arXiv:1603.08861). Of many graphs each is an
example, and a batch of them is one graph in parts. Edges are stored both ways, once, without loops; features that are
all 0 or 1 are divided by their sum (as Kipf & Welling 2017 do with words), others are scaled to mean 0 and deviation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit import layout
from searchkit.types import Arrays, BadInput, Port, Task

from .data import Data, Found, standard_dtype
from .prepare import make_task
from .scaling import channel_statistics
from .source import Source

EMBEDDED = {
    "graph-shapes": "600 graphs of 8 to 20 nodes by what they are: ring, tree, grid, hub or clusters (generated)",
    "sbm": "nodes of a stochastic block model by their block: 600 nodes, 5 blocks, noisy features (generated)",
    "karate": "members of a karate club by the side that they took: 34 nodes, 78 edges (Zachary 1977; networkx)",
}


# ── What a graph must hold ───────────────────────────────────────────────────────────────────────────────────────────


def undirected(edges: np.ndarray, n_nodes: int, where: str) -> np.ndarray:
    """(2, E) int64, each edge both ways, once, without loops, in order. edges: (2, E), (E, 2) where it is not. Raises
    BadInput."""
    if edges.ndim != 2 or 2 not in edges.shape or edges.dtype.kind not in "iu":
        raise BadInput(
            f"The edges of {where} have shape {edges.shape} and type {edges.dtype}; they must be (n_edges, 2) or "
            "(2, n_edges) whole numbers, the two nodes that each joins."
        )
    pairs = (edges if edges.shape[1] == 2 else edges.T).astype(np.int64)
    missing = np.flatnonzero(((pairs < 0) | (pairs >= n_nodes)).any(axis=1))
    if len(missing):
        one, other = pairs[missing[0]]
        raise BadInput(
            f"Edge {missing[0]} of {where} joins the nodes {one} and {other}, and the nodes are 0 to {n_nodes - 1}; "
            "remove the edge or give the node."
        )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    return np.ascontiguousarray(both.T)


def node_graph(
    name: str,
    nodes: np.ndarray,
    edges: np.ndarray,
    target: np.ndarray,
    where: str,
    *,
    given: Mapping[str, np.ndarray] | None = None,
    labels: tuple[str, ...] = (),
) -> Found:
    """One graph. nodes: (N, features). edges: as `undirected`. target: (N,) or (N, n_targets). given: nodes by split.
    Raises BadInput."""
    if nodes.ndim != 2 or 0 in nodes.shape:
        raise BadInput(f"The features of {where} have shape {nodes.shape}; they must be (n_nodes, n_features).")
    if len(target) != len(nodes):
        raise BadInput(f"{where} has {len(nodes):,} nodes and {len(target):,} labels; give one label for each node.")
    joined = undirected(edges, len(nodes), where)
    _require_edges(joined, where)
    return Found(name, nodes, target, where, "graph", more={"edges": joined}, given=given or {}, labels=labels)


def many_graphs(
    name: str,
    graphs: list[tuple[np.ndarray, np.ndarray]],
    target: np.ndarray,
    where: str,
    *,
    given: Mapping[str, np.ndarray] | None = None,
    labels: tuple[str, ...] = (),
) -> Found:
    """A graph an example. graphs: (nodes (N, features), edges as `undirected`, numbered within the graph) of each.
    Raises BadInput."""
    if len(target) != len(graphs):
        raise BadInput(f"{where} has {len(graphs):,} graphs and {len(target):,} labels; give one label for each graph.")
    joined = []
    for number, (nodes, edges) in enumerate(graphs):
        which = f"graph {number} of {where}"
        if nodes.ndim != 2 or 0 in nodes.shape or nodes.shape[1] != graphs[0][0].shape[1]:
            raise BadInput(
                f"The features of {which} have shape {nodes.shape}; they must be (n_nodes, {graphs[0][0].shape[-1]}), "
                "with at least one node and as many features as in the other graphs."
            )
        joined.append(undirected(edges, len(nodes), which) if edges.size else np.empty((2, 0), np.int64))
    together = np.concatenate(joined, axis=1)
    _require_edges(together, where)
    return Found(
        name,
        np.array([len(nodes) for nodes, _ in graphs], dtype=np.int64),
        target,
        where,
        "graph",
        more={
            "nodes": np.concatenate([nodes for nodes, _ in graphs]),
            "edges": together,
            "n_edges": np.array([edges.shape[1] for edges in joined], dtype=np.int64),
        },
        given=given or {},
        labels=labels,
    )


def _require_edges(edges: np.ndarray, where: str) -> None:
    if not edges.size:
        raise BadInput(
            f"{where} has no edges between different nodes; without them the nodes are rows of a table: give edges, or "
            "the features as a table to mlp."
        )


# ── The modality ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ScaleNodes(nn.Module):
    """Features of nodes (N, F) to float32, divided by their sum where `by_sum`, else scaled; the rest as it is."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray, *, by_sum: bool) -> None:
        super().__init__()
        self.by_sum = by_sum
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, nodes: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        values = nodes.to(torch.float32)
        if self.by_sum:
            return values / values.sum(1, keepdim=True).clamp(min=1.0), *rest
        return (values - self.mean) / self.std, *rest


@dataclass(frozen=True)
class Graph:
    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(default_factory=dict)
    corrupts: frozenset[str] = frozenset()
    form = "graph"

    def arrange(self, found: Found) -> Arrays:
        if "edges" not in found.more:
            raise BadInput(f"{found.where} has no edges, so it is no graph; give them, or leave out --modality graph.")
        if "nodes" not in found.more:
            nodes = standard_dtype(found.x, found.where)
            return {"nodes": nodes, "edges": found.more["edges"], "query": np.arange(len(nodes), dtype=np.int64)}
        nodes = standard_dtype(found.more["nodes"], found.where)
        counts = {"n_nodes": found.x, "n_edges": found.more["n_edges"]}
        return {"nodes": nodes, "edges": found.more["edges"], **counts}

    def ports(self, data: Data) -> tuple[Port, ...]:
        nodes = data.inputs["nodes"]
        width, kind = nodes.shape[1], nodes.dtype.name
        if "query" in data.inputs:
            return (
                Port("nodes", (None, width), kind, batched=False),
                Port("edges", (2, None), "int64", batched=False),
                Port("query", (), "int64"),
            )
        return (
            Port("nodes", (width,), kind, counted_by="n_nodes"),
            Port("edges", (2,), "int64", axis=1, counted_by="n_edges"),
            Port("n_nodes", (), "int64"),
            Port("n_edges", (), "int64"),
        )

    def frontend(self, data: Data) -> ScaleNodes:
        """Statistics over the training nodes, or over the nodes of the training graphs."""
        nodes, rows = data.inputs["nodes"], data.rows["train"]
        if "query" not in data.inputs:
            nodes = layout.take(self.ports(data), data.inputs, rows)["nodes"]
            rows = np.arange(len(nodes))
        by_sum = bool(((nodes[rows] == 0) | (nodes[rows] == 1)).all())
        return ScaleNodes(*channel_statistics(nodes, rows, 1), by_sum=by_sum)

    def restore(self, data: Data, frontend: nn.Module) -> nn.Module:
        raise BadInput(f"{data.where} holds graphs, which cannot be reconstructed; give labels.")

    def vocabulary(self, data: Data) -> int:
        return 0


MODALITIES = {"graph": Graph()}


# ── Embedded tasks ───────────────────────────────────────────────────────────────────────────────────────────────────


def load(source: Source) -> Task:
    makers = {"karate": _karate, "sbm": _block_model, "graph-shapes": _shapes}
    assert source.task is not None
    return make_task(makers[source.task](), source)


def _karate() -> Found:
    """Zachary 1977, An information flow model for conflict and fission in small groups. A member has no features but
    who they are: one column each."""
    from networkx import karate_club_graph

    club = karate_club_graph()
    sides = np.array([club.nodes[n]["club"] for n in range(len(club))])
    identity = np.eye(len(club), dtype=np.uint8)
    return node_graph("karate", identity, np.array(club.edges), sides, "the task 'karate'")


def _block_model() -> Found:
    """Holland, Laskey & Leinhardt 1983, with features as in Deshpande et al. 2018 (arXiv:1807.09596): neither the
    features nor the edges alone tell the block well."""
    rng = np.random.default_rng(1983)
    blocks, n, width = 5, 600, 16
    block = np.sort(rng.integers(0, blocks, n))
    chance = np.where(block[:, None] == block, 0.05, 0.006)
    edges = np.argwhere(np.triu(rng.random((n, n)) < chance, 1))
    centres = rng.standard_normal((blocks, width)) * 0.45
    nodes = (centres[block] + rng.standard_normal((n, width))).astype(np.float32)
    return node_graph("sbm", nodes, edges, block, "the task 'sbm'")


SHAPES = ("ring", "tree", "grid", "hub", "clusters")


def _shapes() -> Found:
    """Five kinds of graphs that differ in their structure alone: every node has the one feature 1. A tenth of the
    edges is noise, so that no rule is without exception."""
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
            n = 2 * half
        case "hub":  # all hang on one, and a few on their neighbour
            some = node[:-1][rng.random(n - 2) < 0.3]
            edges = np.concatenate([np.stack([np.zeros_like(node), node], 1), np.stack([some, some + 1], 1)])
        case _:  # two groups, most of each joined, and one edge between them
            side = np.arange(n) < n // 2
            inside = np.triu(rng.random((n, n)) < 0.6, 1) & (side[:, None] == side)
            edges = np.concatenate([np.argwhere(inside), [[0, n - 1]]])
    noise = rng.integers(0, n, (max(1, len(edges) // 10), 2))
    shuffled = rng.permutation(n)
    return np.ones((n, 1), np.uint8), shuffled[np.concatenate([edges[rng.random(len(edges)) > 0.05], noise])]
