"""How examples lie in arrays: taken out of them, put in batches, and read back from an exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.onnx import io as onnx_io
from searchkit.onnx import measure
from searchkit.onnx.parity import parity
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor

BAGS = (
    TensorSpec("values", (2,), counted_by="sizes"),
    TensorSpec("marks", (3,), "int64", axis=1, counted_by="sizes"),
    TensorSpec("sizes", (), "int64"),
    TensorSpec("table", (None,), batched=False),
)


def bags(sizes: list[int], seed: int = 0) -> Arrays:
    rng, total = np.random.default_rng(seed), sum(sizes)
    return {
        "values": rng.standard_normal((total, 2)).astype(np.float32),
        "marks": rng.integers(0, 5, (3, total)),
        "sizes": np.array(sizes, dtype=np.int64),
        "table": rng.standard_normal(5).astype(np.float32),
    }


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data())
@settings(deadline=None)
def test_what_is_taken_is_the_examples_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    arrays = bags(sizes)
    ends = np.cumsum(sizes)
    rows = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=6))
    taken = batching.take(BAGS, arrays, np.array(rows, dtype=np.int64))
    wanted = [np.arange(ends[row] - sizes[row], ends[row]) for row in rows]
    index = np.concatenate([*wanted, np.empty(0, np.int64)]).astype(np.int64)
    assert np.array_equal(taken["values"], arrays["values"][index])
    assert np.array_equal(taken["marks"], arrays["marks"][:, index])
    assert np.array_equal(taken["sizes"], arrays["sizes"][rows] if rows else np.empty(0))
    assert taken["table"] is arrays["table"]
    tensors = batching.take(BAGS, {k: torch.from_numpy(v) for k, v in arrays.items()}, torch.tensor(rows).long())
    assert all(np.array_equal(tensors[name].numpy(), taken[name]) for name in taken)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 4))
@settings(deadline=None)
def test_batches_in_a_row_are_the_whole(sizes: list[int], size: int) -> None:
    arrays = bags(sizes)
    parts = list(batching.batches(BAGS, arrays, size))
    assert [len(part["sizes"]) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for port in BAGS[:3]:
        assert np.array_equal(np.concatenate([p[port.name] for p in parts], port.axis), arrays[port.name])
        assert parts[0][port.name].base is not None  # a view: nothing is copied


def test_counts_that_lie_are_refused() -> None:
    arrays = bags([2, 3])
    with pytest.raises(BadInput, match="'values' has 4 entries and 'sizes' counts 5"):
        batching.count(BAGS, arrays | {"values": arrays["values"][:4]})
    with pytest.raises(BadInput, match="differ in their number of rows"):
        batching.count((TensorSpec("a", ()), TensorSpec("b", ())), {"a": np.zeros(2), "b": np.zeros(3)})


def test_the_fullest_examples_are_those_to_trace_with() -> None:
    assert batching.fullest(BAGS, bags([0, 3, 1, 4, 0]), 2).tolist() == [1, 3]
    assert batching.fullest((TensorSpec("x", ()),), {"x": np.zeros(5)}, 2).tolist() == [0, 1]


def test_a_network_is_built_for_the_sizes_of_each_example_and_for_any_size_of_what_they_share() -> None:
    assert batching.sizes(TensorSpec("tokens", (None,)), (9, 64)) == (64,)
    assert batching.sizes(BAGS[1], (3, 17)) == (3,)
    assert batching.sizes(TensorSpec("edges", (2, None), batched=False), (2, 40)) == (2, None)


class Bags(nn.Module):
    """The sum of each bag's values, weighted by the table."""

    def forward(self, values: Tensor, marks: Tensor, sizes: Tensor, table: Tensor) -> Tensor:
        ends = sizes.cumsum(0)
        step = torch.arange(values.shape[0])
        bag = (step[:, None] >= ends[None, :]).sum(1)
        weighted = values.sum(1) * table[marks].sum(0)
        return torch.zeros(sizes.shape[0]).scatter_add(0, bag, weighted)[:, None]


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bags = Bags()

    def forward(self, *raw: Tensor) -> Tensor:
        out: Tensor = self.bags(*raw)
        return out


def test_an_exported_file_tells_how_examples_lie_in_it(tmp_path: Path) -> None:
    path, arrays, answers = tmp_path / "bags.onnx", bags([3, 2, 4, 1, 2]), (TensorSpec("y", (1,)),)
    onnx_io.export(Exported(), BAGS, answers, path, example=batching.take(BAGS, arrays, slice(0, 2)))
    read = {port.name: port for port in onnx_io.ports(onnx_io.session(path))}
    for port in BAGS:
        found = read[port.name]
        assert (found.shape, found.batched, found.axis, found.counted_by) == (
            port.shape,
            port.batched,
            port.axis,
            port.counted_by,
        )
    by_file, by_net = OnnxPredictor(path, batch_size=2), TorchPredictor(Exported(), BAGS, answers, batch_size=3)
    proof = parity(by_file, by_net, arrays)
    assert proof.agrees and proof.n == 5
    assert measure.bench([path], processes=0, rounds=1)[str(path)].p50_ms > 0  # what it draws can be run
    assert measure.peak_activation_bytes(path, arrays) > measure.peak_activation_bytes(path)
