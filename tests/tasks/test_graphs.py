"""Graphs, from files to int8: what is refused, how they are laid out, every convolution cut, exported and batched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.space_file import load_space
from searchkit.core.training import Training
from searchkit.data.splits import split_rows
from searchkit.nn.graph import (
    GraphAttention,
    GraphConvolution,
    degrees,
    disjoint,
    neighbors_sum,
    owners,
    pool_nodes,
    segment_max,
)
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx import int8
from searchkit.onnx import io as onnx_io
from searchkit.onnx.parity import parity
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.onnx.weight_only import weight_only
from searchkit.stages.quantize import calibration
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "gnn.py")
ARCHS = {
    "gcn": SPACE.arch(conv="gcn", width=16, residual=True),
    "gcn-conv": SPACE.arch(conv="gcn", width=16, depth=1, head="conv", batch_norm=True),
    "sage-mean": SPACE.arch(conv="sage", width=16, batch_norm=True, pooling="max"),
    "sage-max": SPACE.arch(conv="sage", width=16, aggregate="max", jump=True, pooling="sum"),
    "gat": SPACE.arch(conv="gat", width=24, heads=4, residual=True),
    "gat-conv": SPACE.arch(conv="gat", width=24, heads=4, head="conv", answer_heads=3),
    "gin": SPACE.arch(conv="gin", width=16, depth=3, jump=True, pooling="sum", batch_norm=True),
}
TASKS = {name: registry.load({"task": name}) for name in ("graph-shapes", "sbm")}
LOADED = TASKS | {"karate": registry.load({"task": "karate"})}


def network(arch: str, task: str, seed: int = 0) -> nn.Module:
    """Of weights that are not those of a fresh network: biases and running statistics too."""
    torch.manual_seed(seed)
    net = SPACE.build(ARCHS[arch], TASKS[task].spec)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return net.eval()


def model_inputs(task: ArrayTask, n: int) -> tuple[Tensor, ...]:
    batch = next(task.batches("val", Training(batch_size=n), seed=0, device="cpu"))
    return batch.inputs


# ── Sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_graph_convolution_is_its_formula() -> None:
    """D^-1/2 (A + I) D^-1/2 X W + b, written with matrices."""
    graph = networkx.karate_club_graph()
    edges = torch.tensor(list(networkx.DiGraph(graph).edges)).t()
    torch.manual_seed(0)
    x, layer = torch.randn(34, 5), GraphConvolution(5, 3)
    nn.init.normal_(layer.bias)
    adjacency = torch.tensor(networkx.to_numpy_array(graph, weight=None)).float() + torch.eye(34)
    root = adjacency.sum(1).rsqrt()
    wanted = (root[:, None] * adjacency * root) @ x @ layer.weight.t() + layer.bias
    torch.testing.assert_close(layer(x, edges, degrees(edges, x)), wanted)


@pytest.mark.parametrize("mean", [False, True])
def test_graph_attention_is_its_formula(mean: bool) -> None:
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 1, 1, 3]])
    x, layer = torch.randn(5, 4), GraphAttention(4, 3, heads=2, mean=mean)
    nn.init.normal_(layer.bias)
    found = layer(x, edges)
    h = (x @ layer.weight.t()).view(5, 2, 3)
    a_source, a_target = layer.from_source.view(2, 3), layer.from_target.view(2, 3)
    for node in range(5):
        near = [node, *edges[0][edges[1] == node].tolist()]
        heads = []
        for k in range(2):
            scores = torch.stack([h[j, k] @ a_source[k] + h[node, k] @ a_target[k] for j in near])
            weights = nn.functional.leaky_relu(scores, 0.2).softmax(0)
            heads.append((weights[:, None] * h[near, k]).sum(0))
        wanted = (torch.stack(heads).mean(0) if mean else torch.cat(heads)) + layer.bias
        torch.testing.assert_close(found[node], wanted)


def test_attention_of_large_scores_stays_finite() -> None:
    layer = GraphAttention(4, 3, heads=2)
    x = 1e4 * torch.randn(6, 4)
    assert layer(x, torch.tensor([[0, 1, 2], [1, 2, 0]])).isfinite().all()


def test_sums_and_maxima_by_index() -> None:
    values, index = torch.tensor([[1.0], [2.0], [-5.0], [4.0]]), torch.tensor([0, 0, 2, 2])
    assert segment_max(values, index, torch.zeros(4, 1)).flatten().tolist() == [2, 0, 4, 0]
    edges = torch.stack([torch.tensor([0, 1, 2, 3]), index])
    assert neighbors_sum(values, edges).flatten().tolist() == [3, 0, -1, 0]
    assert degrees(edges, values).flatten().tolist() == [2, 0, 2, 0]


def test_owners_and_pools_of_empty_examples() -> None:
    counts = torch.tensor([0, 2, 0, 1, 0])
    assert owners(counts, 3).tolist() == [1, 1, 3]
    assert owners(torch.tensor([0]), 0).tolist() == []
    x = torch.tensor([[1.0], [3.0], [5.0]])
    pooled = {how: pool_nodes(x, owners(counts, 3), counts, how).flatten().tolist() for how in ("sum", "mean", "max")}
    assert pooled == {"sum": [0, 4, 0, 5, 0], "mean": [0, 2, 0, 5, 0], "max": [0, 3, 0, 5, 0]}


def test_graphs_are_numbered_as_parts_of_one() -> None:
    edges = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])
    whole, graph = disjoint(edges, torch.tensor([2, 1, 3]), torch.tensor([2, 0, 2]), 6)
    assert whole.tolist() == [[0, 1, 3, 5], [1, 0, 5, 3]] and graph.tolist() == [0, 0, 1, 2, 2, 2]


def test_sums_under_autocast_are_float32() -> None:
    index, ones = torch.zeros(3000, dtype=torch.int64), torch.ones(3000, 1, dtype=torch.bfloat16)
    assert float(neighbors_sum(ones, torch.stack([index, index]))[0]) == 3000


# ── Every convolution ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", ARCHS)
def test_everything_that_can_be_cut_is_and_a_cut_is_a_mask(arch: str, task: str) -> None:
    """Each group found, none refused; the cut network computes what the masked one does."""
    net, example = network(arch, task), model_inputs(TASKS[task], 16)
    groups, refused = prunable_groups(net, example)
    assert not refused and groups
    chosen = drops([(group, range(len(group) // 2)) for group in groups])
    cut, masked = copy.deepcopy(net), copy.deepcopy(net)
    apply_edits_(cut, chosen)
    mask_edits_(masked, chosen)
    assert sum(p.numel() for p in cut.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(cut(*example), masked(*example), rtol=1e-4, atol=1e-5)


def test_heads_are_cut_whole() -> None:
    net = network("gat", "graph-shapes")
    groups, _ = prunable_groups(net, model_inputs(TASKS["graph-shapes"], 8))
    sizes = {len(group) for group in groups}
    assert sizes == {4}  # heads, tied across both layers by the shortcut
    layer = copy.deepcopy(net.layers[1])
    layer.cut_out_(list(range(6, 12)))
    assert (layer.heads, layer.head_width, layer.out_channels) == (3, 6, 18)
    with pytest.raises(ValueError, match="a part of a head"):
        copy.deepcopy(net.layers[1]).cut_out_([0, 1])
    answers = GraphAttention(8, 3, heads=4, mean=True)
    x, edges = torch.randn(5, 8), torch.tensor([[0, 1, 2], [1, 2, 0]])
    for head in (0, 1, 2):
        nn.init.zeros_(answers.weight[3 * head : 3 * head + 3])
    alone = answers(x, edges) - answers.bias
    answers.cut_inner_([0, 1, 2])
    torch.testing.assert_close(answers(x, edges) - answers.bias, 4 * alone)  # the mean of four, and of the one


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", ["gcn-conv", "sage-max", "gat", "gat-conv", "gin"])
def test_the_file_answers_for_any_number_of_nodes_and_edges(arch: str, task: str, tmp_path: Path) -> None:
    """Parity on val, alone and in batches, on another graph, and one without edges; int8 in every way answers too."""
    data = TASKS[task]
    net = Deployed(data.preprocessor(), network(arch, task), data.postprocessor()).eval()
    path, raw = tmp_path / "fp32.onnx", data.raw("val")
    onnx_io.export(net, data.inputs, data.answers, path, example=batching.take(data.inputs, raw, np.arange(2)))
    assert "ScatterND" not in onnx_io.op_counts(path)  # its sums are wrong on several threads: see layers_graph
    others: list[Arrays] = [raw, lonely(data)]
    if task == "sbm":
        keep = (raw["edges"] < 300).all(0)
        others.append({"nodes": raw["nodes"][:300], "edges": raw["edges"][:, keep], "query": np.arange(300)})
    for arrays in others:
        for size in (1, 5, 256):
            by_net = TorchPredictor(net, data.inputs, data.answers)
            some = batching.take(data.inputs, arrays, slice(0, 12))
            proof = parity(OnnxPredictor(path, batch_size=size), by_net, some)
            assert proof.agrees, (size, proof)
    whole = OnnxPredictor(path)(raw)["probabilities"]
    np.testing.assert_allclose(OnnxPredictor(path, threads=4)(raw)["probabilities"], whole, rtol=1e-4, atol=1e-6)
    int8.static(path, tmp_path / "static.onnx", calibration(data.inputs, data.raw("train"), 64))
    int8.dynamic(path, tmp_path / "dynamic.onnx")
    weight_only(path, tmp_path / "weight-only.onnx")
    for way in ("static", "dynamic", "weight-only"):
        answers = OnnxPredictor(tmp_path / f"{way}.onnx")(raw)["probabilities"]
        assert np.isfinite(answers).all() and np.abs(answers - whole).mean() < 0.1, way


def lonely(data: ArrayTask) -> Arrays:
    """The first graphs, or the graph, of val with no edge left."""
    raw = batching.take(data.inputs, data.raw("val"), slice(0, 12))
    bare = {**raw, "edges": np.empty((2, 0), np.int64)}
    return bare | ({"n_edges": np.zeros_like(raw["n_edges"])} if "n_edges" in raw else {})


@pytest.mark.parametrize("conv", ["gcn", "sage", "gat", "gin"])
def test_a_node_answers_whatever_else_is_asked_and_however_nodes_are_numbered(conv: str) -> None:
    data = TASKS["sbm"]
    net = network({"gcn": "gcn", "sage": "sage-max", "gat": "gat-conv", "gin": "gin"}[conv], "sbm")
    nodes, edges, query = model_inputs(data, 16)
    order = torch.randperm(len(nodes), generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    with torch.no_grad():
        asked = net(nodes, edges, query)
        torch.testing.assert_close(net(nodes, edges, torch.arange(len(nodes)))[query], asked)
        renamed = net(nodes[order], place[edges], place[query])
    torch.testing.assert_close(renamed, asked, rtol=1e-4, atol=1e-5)


def test_published_sizes() -> None:
    """Cora's networks have the parameters that are published for them: 1,433 features, 7 classes."""
    spec = TASKS["sbm"].spec
    nodes, edges, query = spec.inputs
    cora = replace(spec, inputs=(replace(nodes, shape=(None, 1433)), edges, query))
    cora = replace(cora, outputs=(replace(spec.outputs[0], shape=(7,)),), n_classes=7)
    for point, params in (("gcn", 23_063), ("gat", 92_373)):  # Kipf & Welling; Velickovic et al., as counted by PyG
        assert sum(p.numel() for p in SPACE.build(SPACE.points[point], cora).parameters()) == params


def test_a_width_that_heads_cannot_share_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="split into 5 heads"):
        SPACE.build(SPACE.arch(conv="gat", width=16, heads=5), TASKS["sbm"].spec)


# ── Tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    "no labels": (lambda a: {k: v for k, v in a.items() if k != "label"}, "with edges it is a graph, and must hold"),
    "an unknown array": (lambda a: a | {"weights": np.ones(40)}, "holds edges, .*weights.*must hold"),
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
