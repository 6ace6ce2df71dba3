"""Tasks of graphs: their edges, splits, labels and scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_nets import TASKS

from searchkit.core.errors import Infeasible
from searchkit.core.training import Training
from searchkit.data.splits import split_rows
from searchkit.tasks import registry

LOADED = TASKS | {"karate": registry.load({"task": "karate"})}


@pytest.mark.parametrize("name", LOADED)
def test_a_graph_is_undirected_and_its_edges_are_its_own(name: str) -> None:
    for raw in (LOADED[name].raw(split) for split in ("train", "val", "test")):
        n_nodes = raw.get("n_nodes", np.array([len(raw["nodes"])]))
        n_edges = raw.get("n_edges", np.array([raw["edges"].shape[1]]))
        for nodes, edges in zip(n_nodes, np.split(raw["edges"], np.cumsum(n_edges)[:-1], axis=1), strict=True):
            pairs = set(map(tuple, edges.T.tolist()))
            assert len(pairs) == edges.shape[1] and pairs == {(b, a) for a, b in pairs}
            assert all(a != b and 0 <= a < nodes for a, b in pairs)


def test_karate_is_the_club() -> None:
    raw = LOADED["karate"].raw("val")
    assert raw["nodes"].shape == (34, 34) and raw["edges"].shape == (2, 2 * 78)


@pytest.mark.parametrize("name", LOADED)
def test_loading_again_gives_the_same(name: str) -> None:
    again, other = registry.load({"task": name}), registry.load({"task": name, "split_seed": 1})
    assert again.fingerprint == LOADED[name].fingerprint != other.fingerprint


@pytest.mark.parametrize("name", LOADED)
def test_labels_of_test_reach_nothing_but_evaluate(name: str) -> None:
    """Poison. Of one graph the features of every node are seen, its labels are not; of many graphs nothing is."""
    config, arrays = LOADED[name].pack()
    poisoned = {key: values.copy() for key, values in arrays.items()}
    poisoned["target"][arrays["rows.test"]] = 0
    if "input.n_nodes" in arrays:
        graph = np.repeat(np.arange(len(arrays["input.n_nodes"])), arrays["input.n_nodes"])
        poisoned["input.nodes"][np.isin(graph, arrays["rows.test"])] = 7
    before, after = LOADED[name], registry.unpack(config, poisoned)
    for split in ("train", "val"):
        for a, b in zip(
            before.batches(split, Training(), seed=0, device="cpu"),
            after.batches(split, Training(), seed=0, device="cpu"),
            strict=True,
        ):
            assert all(torch.equal(x, y) for x, y in zip((*a.inputs, a.target), (*b.inputs, b.target), strict=True))


def test_features_are_scaled_by_what_they_are() -> None:
    words = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]] * 6, np.uint8)
    ring = np.stack([np.arange(18), (np.arange(18) + 1) % 18], 1)
    label = np.arange(18) % 2
    from searchkit.data.graphs import node_graph
    from searchkit.data.source import Source
    from searchkit.tasks.prepare import make_task

    source = Source(task="x")
    net = make_task(node_graph("words", words, ring, label, "words"), source).preprocessor()
    assert net(torch.tensor(words))[0][:3].tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    numbers = np.random.default_rng(0).normal(5, 3, (18, 4)).astype(np.float32)
    task = make_task(node_graph("numbers", numbers, ring, label, "numbers"), source)
    train = task.preprocessor()(torch.from_numpy(numbers))[0][task.data.rows["train"]]
    torch.testing.assert_close(train.mean(0), torch.zeros(4), atol=1e-5, rtol=0)


def test_splits_that_are_all_given_leave_the_rest_out() -> None:
    given = {"train": np.array([5, 1]), "val": np.array([2]), "test": np.array([3])}
    rows = split_rows(9, None, given=given, seed=0)
    assert {k: v.tolist() for k, v in rows.items()} == {"train": [1, 5], "val": [2], "test": [3]}
    rows = split_rows(9, None, given={"train": np.arange(6), "test": np.array([8])}, seed=0)
    assert set(rows["train"]) | set(rows["val"]) == set(range(6)) and rows["test"].tolist() == [8]


def test_what_cannot_be_mixed_is_infeasible() -> None:
    for task in TASKS.values():
        with pytest.raises(Infeasible, match="cannot be mixed"):
            next(task.batches("train", Training(mixup=0.2), seed=0, device="cpu"))
