"""Graphs as a dataset: one whose nodes are the examples, or many that are one example each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset


def undirected(edges: np.ndarray, n_nodes: int, where: str) -> np.ndarray:
    """Give each edge both ways, once, without loops, in order.

    Args:
        edges: (2, E) or (E, 2) node numbers.
        n_nodes: How many nodes there are.
        where: What an error calls the graph.

    Returns:
        (2, E) int64.

    Raises:
        BadInput: the edges have another shape, or join a node that is not there.
    """
    if edges.ndim != 2 or 2 not in edges.shape or edges.dtype.kind not in "iu":
        raise BadInput(
            f"The edges of {where} have shape {edges.shape} and type {edges.dtype}; they must be (n_edges, 2) or "
            "(2, n_edges) whole numbers, the two nodes that each joins."
        )
    # Two edges, of shape (2, 2), are taken as one edge a row.
    pairs = (edges if edges.shape[1] == 2 else edges.T).astype(np.int64)
    missing = np.flatnonzero(((pairs < 0) | (pairs >= n_nodes)).any(axis=1))
    if len(missing):
        one, other = pairs[missing[0]]
        raise BadInput(
            f"Edge {missing[0]} of {where} joins the nodes {one} and {other}, and the nodes are 0 to {n_nodes - 1}; "
            "remove the edge or give the node."
        )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    # np.unique sorts: a graph has the same fingerprint in whatever order its edges are given.
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
) -> RawDataset:
    """Make a dataset of one graph, whose nodes are the examples.

    Args:
        name: Of the task.
        nodes: (N, features).
        edges: As `undirected` takes them.
        target: (N,) or (N, n_targets).
        where: What an error calls the graph.
        given: Nodes by split, if the source says which they are.
        labels: Class names in the order of their indices.

    Raises:
        BadInput: nodes, edges and targets do not fit together.
    """
    if nodes.ndim != 2 or 0 in nodes.shape:
        raise BadInput(f"The features of {where} have shape {nodes.shape}; they must be (n_nodes, n_features).")
    if len(target) != len(nodes):
        raise BadInput(f"{where} has {len(nodes):,} nodes and {len(target):,} labels; give one label for each node.")
    joined = undirected(edges, len(nodes), where)
    _require_edges(joined, where)
    return RawDataset(name, nodes, target, where, "graph", more={"edges": joined}, given=given or {}, labels=labels)


def many_graphs(
    name: str,
    graphs: list[tuple[np.ndarray, np.ndarray]],
    target: np.ndarray,
    where: str,
    *,
    given: Mapping[str, np.ndarray] | None = None,
    labels: tuple[str, ...] = (),
) -> RawDataset:
    """Make a dataset of many graphs, one an example.

    Args:
        name: Of the task.
        graphs: Of each (nodes (N, features), edges as `undirected` takes them, numbered within the graph).
        target: (n,), one a graph.
        where: What an error calls the graphs.
        given: Graphs by split, if the source says which they are.
        labels: Class names in the order of their indices.

    Raises:
        BadInput: nodes, edges and targets do not fit together.
    """
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
        # A graph without edges may come as an array of shape (0,), which `undirected` refuses.
        joined.append(undirected(edges, len(nodes), which) if edges.size else np.empty((2, 0), np.int64))
    together = np.concatenate(joined, axis=1)
    _require_edges(together, where)
    return RawDataset(
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
