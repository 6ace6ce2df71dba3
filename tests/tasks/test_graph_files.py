"""Graphs from files: archives, texts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask


def one_graph() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "edges": np.stack([np.arange(40), (np.arange(40) + 1) % 40], 1),
        "features": rng.standard_normal((40, 3)).astype(np.float32),
        "label": np.arange(40) % 2,
        "train": np.arange(20),
        "val": np.arange(20, 30),
        "test": np.arange(30, 38),
    }


def some_graphs() -> Arrays:
    """24 rings of 4 nodes."""
    node = np.arange(96)
    ring = np.where(node % 4 == 3, node - 3, node + 1)
    return {"edges": np.stack([node, ring], 1), "graph": node // 4, "label": np.arange(24) % 2}


def load_npz(folder: Path, arrays: Arrays) -> ArrayTask:
    np.savez(folder / "graph.npz", **arrays)
    task: ArrayTask = registry.load({"data": str(folder / "graph.npz")})
    return task


def test_an_archive_of_one_graph(tmp_path: Path) -> None:
    task = load_npz(tmp_path, one_graph())
    assert {split: len(rows) for split, rows in task.splits().items()} == {"train": 20, "val": 10, "test": 8}
    assert task.raw("test")["query"].tolist() == list(range(30, 38)) and task.raw("val")["edges"].shape == (2, 80)
    assert [port.batched for port in task.inputs] == [False, False, True]
    plain = {k: v for k, v in one_graph().items() if k not in ("features", "train", "val", "test")}
    assert load_npz(tmp_path, plain).raw("val")["nodes"].tolist() == [[1]] * 40
    masked = one_graph() | {"train": np.isin(np.arange(40), np.arange(20))}
    assert load_npz(tmp_path, masked).splits()["train"].tolist() == list(range(20))
    sparse = {k: v for k, v in one_graph().items() if k != "features"}
    sparse |= {"feature_row": np.array([0, 0, 5]), "feature_col": np.array([1, 2, 0]), "shape": np.array([40, 3])}
    assert load_npz(tmp_path, sparse).raw("val")["nodes"][[0, 5, 6]].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_an_archive_of_many_graphs(tmp_path: Path) -> None:
    raw = load_npz(tmp_path, some_graphs()).raw("train")
    assert set(raw["n_nodes"]) == {4} and set(raw["n_edges"]) == {8} and raw["edges"].max() == 3
    shuffled = some_graphs()
    shuffled["edges"] = np.random.default_rng(0).permutation(shuffled["edges"])
    assert np.array_equal(load_npz(tmp_path, shuffled).raw("train")["edges"], raw["edges"])


Change = Callable[[Arrays], Arrays]

ONE_GRAPH_ERRORS: dict[str, tuple[Change, str]] = {
    "edge to a missing node": (
        lambda a: a | {"edges": np.append(a["edges"], [[3, 40]], 0)},
        "Edge 40 of .* joins the nodes 3 and 40, and the nodes are 0 to 39",
    ),
    "a negative node": (lambda a: a | {"edges": np.append(a["edges"], [[-1, 4]], 0)}, "joins the nodes -1 and 4"),
    "no edges": (lambda a: a | {"edges": np.empty((0, 2), np.int64)}, "has no edges between different nodes"),
    "no edges, the other way": (lambda a: a | {"edges": np.empty((2, 0), np.int64)}, "has no edges between"),
    "loops alone": (lambda a: a | {"edges": np.array([[3, 3], [4, 4]])}, "has no edges between different nodes"),
    "edges of three": (lambda a: a | {"edges": np.zeros((5, 3), np.int64)}, r"have shape \(5, 3\)"),
    "edges of fractions": (lambda a: a | {"edges": a["edges"].astype(float)}, "type float64; they must be"),
    "too few labels": (lambda a: a | {"label": a["label"][:39]}, "has 40 nodes and 39 labels"),
    "a node without a label": (lambda a: a | {"label": a["label"] - 1}, "Node 0 of .* has the label -1"),
    "no labels": (lambda a: {k: v for k, v in a.items() if k != "label"}, "holds edges, .*; a graph has edges, label"),
    "an unknown array": (lambda a: a | {"weights": np.ones(40)}, "holds edges, .*weights; a graph has edges, label"),
    "features of three axes": (lambda a: a | {"features": np.ones((40, 2, 2))}, r"\(n_nodes, n_features\)"),
    "a feature that is no number": (
        lambda a: a | {"features": np.where(np.arange(120).reshape(40, 3) == 7, np.nan, 1.0)},
        "Example 2 of .* holds nan",
    ),
    "a node in two splits": (lambda a: a | {"val": np.arange(19, 30)}, "Node 19 of .* is in train and in val"),
    "a split of missing nodes": (
        lambda a: a | {"test": np.array([30, 40])},
        "'test' of .* numbers of nodes, from 0 to 39",
    ),
    "an empty split": (lambda a: a | {"val": np.zeros(40, bool)}, "'val' of .* must be numbers of nodes"),
    "half of the sparse features": (
        lambda a: {k: v for k, v in a.items() if k != "features"} | {"feature_row": np.arange(3)},
        "features by their places are feature_row, feature_col and shape",
    ),
    "a sparse feature out of place": (
        lambda a: (
            {k: v for k, v in a.items() if k != "features"}
            | {"feature_row": np.array([0, 1]), "feature_col": np.array([0, 9]), "shape": np.array([40, 3])}
        ),
        "'feature_col' of .* must be 2 whole numbers from 0 to 2",
    ),
}

MANY_GRAPHS_ERRORS: dict[str, tuple[Change, str]] = {
    "an edge between graphs": (
        lambda a: a | {"edges": np.append(a["edges"], [[0, 5]], 0)},
        "joins the nodes 0 and 5, which are not two nodes of one graph",
    ),
    "an edge to a missing node": (lambda a: a | {"edges": np.append(a["edges"], [[0, 96]], 0)}, "nodes are 0 to 95"),
    "too few labels": (lambda a: a | {"label": a["label"][:20]}, "count up from 0 to 19"),
    "graphs that are not in order": (lambda a: a | {"graph": a["graph"][::-1].copy()}, "one graph after the other"),
    "a graph without nodes": (lambda a: a | {"graph": np.where(a["graph"] == 5, 4, a["graph"])}, "graph 5 of"),
    "splits of nodes": (lambda a: a | {"test": np.arange(4)}, "names nodes of one; leave it out"),
    "features of other nodes": (lambda a: a | {"features": np.ones((90, 2))}, "must be 90 whole numbers"),
}


@pytest.mark.parametrize("case", ONE_GRAPH_ERRORS)
def test_a_graph_that_cannot_be_is_refused(case: str, tmp_path: Path) -> None:
    change, sentence = ONE_GRAPH_ERRORS[case]
    with pytest.raises(BadInput, match=sentence):
        load_npz(tmp_path, change(one_graph()))


@pytest.mark.parametrize("case", MANY_GRAPHS_ERRORS)
def test_graphs_that_cannot_be_are_refused(case: str, tmp_path: Path) -> None:
    change, sentence = MANY_GRAPHS_ERRORS[case]
    with pytest.raises(BadInput, match=sentence):
        load_npz(tmp_path, change(some_graphs()))


def graph_text(numbers: bool = False) -> list[str]:
    """20 triangles and paths of three, of two tags."""
    lines = ["20"]
    for k in range(20):
        own = " 0.5 -1" if numbers else ""
        near = ("1 2", "0 2", "0 1") if k % 2 else ("1", "0 2", "1")
        lines += [f"3 {k % 2}", *(f"{5 * (n == 1)} {len(o.split())} {o}{own}" for n, o in enumerate(near))]
    return lines


def load_text(folder: Path, lines: list[str], test: list[str] | None = None) -> ArrayTask:
    (folder / "toy.txt").write_text("\n".join(lines) + "\n")
    source = {"data": str(folder / "toy.txt")}
    if test is not None:
        (folder / "test.txt").write_text("\n".join(test))
        source["test_data"] = str(folder / "test.txt")
    task: ArrayTask = registry.load(source)
    return task


def test_a_text_of_graphs(tmp_path: Path) -> None:
    task = load_text(tmp_path, graph_text(), ["3", "4", "11", "12"])
    assert task.splits()["test"].tolist() == [3, 4, 11, 12] and task.labels == ("0", "1")
    raw = task.raw("test")
    assert raw["n_edges"].tolist() == [6, 4, 6, 4] and raw["nodes"][:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert load_text(tmp_path, graph_text(numbers=True)).raw("val")["nodes"][0].tolist() == [1, 0, 0.5, -1]


@pytest.mark.parametrize(
    ("line", "words", "sentence"),
    [
        (0, "21", "ends before its last graph"),
        (0, "19", "comes after the last of its 19 graphs"),
        (5, "3", "Line 6 of .* is '3'; the nodes and the label"),
        (6, "0 2 1 3", "Line 7 of .* names the neighbors \\[1, 3\\]; the nodes of its graph are 0 to 2"),
        (6, "0 3 1 2", "Line 7 of .* a node is its tag, the number of its neighbors"),
        (6, "x 1 1", "Line 7 of .* a node is its tag"),
        (7, "0 1 0 0.5", "must have as many"),
    ],
)
def test_a_text_of_graphs_that_lies_is_refused(line: int, words: str, sentence: str, tmp_path: Path) -> None:
    lines = graph_text()
    lines[line] = words
    with pytest.raises(BadInput, match=sentence):
        load_text(tmp_path, lines)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [(["3", "20"], "by their numbers, 0 to 19"), (["three"], "the number of a graph on each line")],
)
def test_test_rows_that_are_not_there_are_refused(rows: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=sentence):
        load_text(tmp_path, graph_text(), rows)


def test_one_column_of_numbers_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n".join(["4", "5 1", "1 0 2"]))
    from searchkit.data.readers.graphs import is_graph_text

    assert is_graph_text(tmp_path / "x.txt")
    for text in ("4\n5\n6\n7\n", "a\n1 2\n1 1 1\n", "3\n2 2\n1 5 1\n", ""):
        (tmp_path / "x.txt").write_text(text)
        assert not is_graph_text(tmp_path / "x.txt")


def test_published_sets_have_their_counts(stored_data: Callable[[str], Path]) -> None:
    cora = registry.load({"data": str(stored_data("cora") / "cora.npz")})
    raw = cora.raw("test")
    assert raw["nodes"].shape == (2708, 1433) and raw["edges"].shape == (2, 2 * 5278)
    assert {split: len(rows) for split, rows in cora.splits().items()} == {"train": 140, "val": 500, "test": 1000}
    mutag = registry.load({"data": str(stored_data("tudatasets") / "MUTAG")})
    assert sum(mutag.summary()["rows"].values()) == 188 and mutag.spec.inputs[0].shape == (7,)
