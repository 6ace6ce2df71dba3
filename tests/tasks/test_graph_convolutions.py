"""Graph convolutions: their formulas, and each of them cut, exported and batched."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from graph_nets import ARCHS, SPACE, TASKS, model_inputs, network
from torch import nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import Infeasible
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
from searchkit.tasks.arrays import ArrayTask

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


# Each kind of layer on whole graphs; on nodes, where the queries are what differs, one is enough.
@pytest.mark.parametrize(
    ("arch", "task"),
    [*((arch, "graph-shapes") for arch in ("gcn-conv", "sage-max", "gat", "gat-conv", "gin")), ("gat-conv", "sbm")],
)
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
