"""Read graphs: NumPy archives with `edges`, and the text format of the TU data sets.

An archive of one graph follows Cora's: edges (E, 2), label (N,), features dense (N, F) or as the positions of their
ones, and the nodes of train, val and test. With `graph` (N,), the graph of each node, the archive holds many graphs
with one label each. The text format begins with the number of graphs. Each graph has a line with its number of nodes
and its label, then one line a node: its tag, its number of neighbors, their indices, and optional features (Zhang et
al. 2018, An end-to-end deep learning architecture for graph classification).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset
from searchkit.data.graphs import many_graphs, node_graph

LAYOUT = "edges, label, and features or feature_row, feature_col and shape; optionally train, val, test or graph"
KNOWN = {"edges", "label", "y", "features", "x", "feature_row", "feature_col", "shape", "train", "val", "test", "graph"}
MOST_FEATURES = 2**31  # numbers in a dense table of features

# ── Archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def graphs_of(path: Path, arrays: Arrays) -> RawDataset:
    """Read one graph or many from the arrays of an archive.

    Args:
        path: The archive, named in errors.
        arrays: Its arrays by name, `edges` among them.

    Raises:
        BadInput: An array is missing, unknown, or of another shape or type.
    """
    where, unknown = f"'{path}'", sorted(set(arrays) - KNOWN)
    target = arrays.get("label", arrays.get("y"))
    if unknown or target is None:
        held = ", ".join(sorted(arrays))
        raise BadInput(f"The archive {where} holds {held}; a graph has {LAYOUT}.")
    nodes = _features(arrays, where)
    if "graph" in arrays:
        return _many(path, arrays, nodes, target)
    unlabeled = np.flatnonzero(target < 0) if target.dtype.kind == "i" and target.ndim == 1 else np.empty(0, np.int64)
    if len(unlabeled):
        raise BadInput(
            f"Node {unlabeled[0]} of {where} has the label {target[unlabeled[0]]}; labels are numbered from 0. Give "
            "a node without a label any, and name train, val and test without it."
        )
    n = len(target) if nodes is None else len(nodes)
    # Nodes without features all get a 1, whose sum over the neighbors is the number of neighbors.
    nodes = np.ones((n, 1), np.uint8) if nodes is None else nodes
    given: dict[str, np.ndarray] = {
        split: _rows(arrays[split], split, n, where) for split in ("train", "val", "test") if split in arrays
    }
    _require_apart(given, where)
    return node_graph(path.stem, nodes, arrays["edges"], target, where, given=given)


def _features(arrays: Arrays, where: str) -> np.ndarray | None:
    dense = arrays.get("features", arrays.get("x"))
    if dense is not None:
        return dense
    sparse = [name for name in ("feature_row", "feature_col", "shape") if name in arrays]
    if not sparse:
        return None
    if len(sparse) < 3 or len(arrays["shape"]) != 2:
        raise BadInput(
            f"The archive {where} holds {', '.join(sparse)}; features by their places are feature_row, feature_col and "
            "shape, which is two numbers, nodes and features."
        )
    rows, columns, (n, width) = arrays["feature_row"], arrays["feature_col"], arrays["shape"].tolist()
    for name, index, size in (("feature_row", rows, n), ("feature_col", columns, width)):
        if index.dtype.kind not in "iu" or len(rows) != len(index) or index.min() < 0 or index.max() >= size:
            raise BadInput(
                f"'{name}' of {where} must be {len(rows):,} whole numbers from 0 to {size - 1}; it is {len(index):,} "
                f"of type {index.dtype} from {index.min()} to {index.max()}."
            )
    if n * width > MOST_FEATURES:
        raise BadInput(
            f"{where} has {n:,} nodes of {width:,} features, which is too much for memory; take fewer of them."
        )
    dense = np.zeros((n, width), np.uint8)
    dense[rows, columns] = 1
    return dense


def _rows(values: np.ndarray, split: str, n: int, where: str) -> np.ndarray:
    """Node indices of a split, given as indices or as a boolean mask."""
    if values.dtype == bool and values.shape == (n,):
        values = np.flatnonzero(values)
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) == 0 or values.min() < 0 or values.max() >= n:
        raise BadInput(
            f"'{split}' of {where} has shape {values.shape} and type {values.dtype}; it must be numbers of nodes, from "
            f"0 to {n - 1}, or {n} true and false."
        )
    return np.unique(values.astype(np.int64))


def _require_apart(given: Arrays, where: str) -> None:
    names = list(given)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = np.intersect1d(given[one], given[other])
            if len(both):
                raise BadInput(f"Node {both[0]} of {where} is in {one} and in {other}; a node is in one split at most.")


def _many(path: Path, arrays: Arrays, nodes: np.ndarray | None, target: np.ndarray) -> RawDataset:
    where, graph, edges = f"'{path}'", arrays["graph"], arrays["edges"]
    split = next((name for name in ("train", "val", "test") if name in arrays), None)
    if split is not None:
        raise BadInput(f"{where} holds many graphs and '{split}', which names nodes of one; leave it out.")
    if graph.ndim != 1 or graph.dtype.kind not in "iu" or (nodes is not None and len(graph) != len(nodes)):
        n = len(graph) if nodes is None else len(nodes)
        raise BadInput(f"'graph' of {where} must be {n} whole numbers, the graph of each node; it is {graph.shape}.")
    if (np.diff(graph) < 0).any() or graph[0] < 0 or graph[-1] >= len(target):
        raise BadInput(
            f"'graph' of {where} must count up from 0 to {len(target) - 1}, one graph after the other, for there are "
            f"{len(target)} labels; it goes from {graph.min()} to {graph.max()}."
        )
    if edges.ndim != 2 or 2 not in edges.shape or edges.dtype.kind not in "iu":
        raise BadInput(
            f"The edges of {where} have shape {edges.shape} and type {edges.dtype}; they must be (n_edges, 2)."
        )
    pairs = (edges if edges.shape[1] == 2 else edges.T).astype(np.int64)
    outside = np.flatnonzero(((pairs < 0) | (pairs >= len(graph))).any(axis=1))
    across = outside if len(outside) else np.flatnonzero(graph[pairs[:, 0]] != graph[pairs[:, 1]])
    if len(across):
        one, other = pairs[across[0]]
        raise BadInput(
            f"Edge {across[0]} of {where} joins the nodes {one} and {other}, which are not two nodes of one graph; "
            f"nodes are 0 to {len(graph) - 1}."
        )
    nodes = np.ones((len(graph), 1), np.uint8) if nodes is None else nodes
    # Nodes lie graph by graph, edges in any order. first, (n + 1,): where the nodes of each graph begin; order: edges
    # graph by graph, those of one graph in the order of the file; cuts, (n + 1,): where the edges of each graph begin.
    first = np.searchsorted(graph, np.arange(len(target) + 1))
    order = np.argsort(graph[pairs[:, 0]], kind="stable")
    cuts = np.searchsorted(graph[pairs[order, 0]], np.arange(len(target) + 1))
    graphs = [
        (nodes[first[g] : first[g + 1]], pairs[order[cuts[g] : cuts[g + 1]]] - first[g]) for g in range(len(target))
    ]
    return many_graphs(path.stem, graphs, target, where)


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_graph_text(path: Path) -> bool:
    """Whether a text file begins as a graph file does.

    That is one number, then two, then a tag, a count, and at least as many numbers.
    """
    try:
        with path.open(encoding="utf-8") as file:
            # At most 100,000 characters a line: some texts are one line as long as the file.
            first, second, third = ([int(float(w)) for w in file.readline(100_000).split()] for _ in range(3))
    except (ValueError, OverflowError):  # int(float("inf")) overflows
        return False
    return len(first) == 1 and len(second) == 2 and len(third) >= 2 and len(third) >= 2 + third[1] >= 2


def graph_text_in(folder: Path) -> Path | None:
    """Find the graph file `<folder>/<folder's name>.txt`; None if there is no such file or it holds other text."""
    file = folder / f"{folder.resolve().name}.txt"  # the name of Path(".") is empty
    return file if file.is_file() and is_graph_text(file) else None


def read_graph_text(path: Path, test_rows: str | None) -> RawDataset:
    """Read many graphs from one text file.

    Args:
        path: The file.
        test_rows: Path of a file with one graph number a line, those of the test split; None leaves the split to
            searchkit.

    Raises:
        BadInput: A line does not fit the format, or the test split names graphs that do not exist.
    """
    where = f"'{path}'"
    lines = _lines(path)
    (n_graphs,) = _whole(lines, path, 1)
    graphs, labels, tags, numbers = [], [], [], []
    for _ in range(n_graphs):
        n, label = _whole(lines, path, 2)
        rows = [_node(lines, path, n) for _ in range(n)]
        graphs.append(np.array([(k, other) for k, (_, near, _) in enumerate(rows) for other in near], np.int64))
        labels.append(label)
        tags.append(np.array([tag for tag, _, _ in rows], dtype=np.int64))
        numbers.append([own for _, _, own in rows])
    rest = next(lines, None)
    if rest is not None:
        raise BadInput(f"Line {rest[0]} of {where} comes after the last of its {n_graphs} graphs; mend the first line.")
    target = np.array(labels)
    given = {} if test_rows is None else {"test": _test_rows(Path(test_rows), n_graphs)}
    nodes = _of_tags(tags, numbers, where)
    return many_graphs(path.stem, list(zip(nodes, graphs, strict=True)), target, where, given=given)


Lines = Iterator[tuple[int, list[str]]]


def _lines(path: Path) -> Lines:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"'{path}' is no text in UTF-8 ({error.reason}); save it again.") from error
    return iter([(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()])


def _whole(lines: Lines, path: Path, n: int) -> list[int]:
    number, words = next(lines, (0, []))
    if not number:
        raise BadInput(f"'{path}' ends before its last graph; the first line says how many there are. Copy it again.")
    try:
        values = [int(word) for word in words]
    except ValueError:
        values = []
    what = "the number of graphs" if n == 1 else "the nodes and the label of a graph"
    if len(values) != n or values[0] < 1:
        raise BadInput(f"Line {number} of '{path}' is '{' '.join(words)[:40]}'; {what} must stand there.")
    return values


def _node(lines: Lines, path: Path, n: int) -> tuple[int, list[int], list[float]]:
    """Parse the line of a node: its tag, its neighbors, and its own features."""
    number, words = next(lines, (0, []))
    if not number:
        raise BadInput(f"'{path}' ends in the middle of a graph; copy it again.")
    try:
        tag, degree = int(words[0]), int(words[1])
        near, own = [int(word) for word in words[2 : 2 + degree]], [float(word) for word in words[2 + degree :]]
    except (ValueError, IndexError):
        tag, degree, near, own = 0, -1, [], []
    if degree < 0 or len(near) != degree:
        raise BadInput(
            f"Line {number} of '{path}' is '{' '.join(words)[:40]}'; a node is its tag, the number of its neighbors, "
            "and so many of them."
        )
    if any(not 0 <= other < n for other in near):
        raise BadInput(
            f"Line {number} of '{path}' names the neighbors {near}; the nodes of its graph are 0 to {n - 1}."
        )
    return tag, near, own


def _of_tags(tags: list[np.ndarray], numbers: list[list[list[float]]], where: str) -> list[np.ndarray]:
    """Node features: a one-hot column for each tag, then the nodes' own numbers."""
    kinds = np.unique(np.concatenate(tags))
    lengths = {len(own) for graph in numbers for own in graph}
    if len(lengths) > 1:
        raise BadInput(
            f"The nodes of {where} have {sorted(lengths)} numbers of their own; every node must have as many."
        )
    hot = [(tag[:, None] == kinds).astype(np.uint8) for tag in tags]
    if lengths == {0}:
        return hot
    return [np.concatenate([h, np.array(own)], axis=1).astype(np.float32) for h, own in zip(hot, numbers, strict=True)]


def _test_rows(path: Path, n: int) -> np.ndarray:
    if not path.is_file():
        raise BadInput(
            f"There is no file '{path}'; --test-data of graphs is a text with the number of a graph on each line."
        )
    try:
        rows = np.unique(np.array([int(word) for word in path.read_text(encoding="utf-8").split()], dtype=np.int64))
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"'{path}' must have the number of a graph on each line, and has other things ({error})."
        ) from error
    if not len(rows) or rows[0] < 0 or rows[-1] >= n:
        raise BadInput(f"'{path}' must name graphs by their numbers, 0 to {n - 1}; it names {rows[:3]} to {rows[-1:]}.")
    return rows
