"""The helpers that read and edit a graph in place."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from searchkit.onnx.editing import (
    feeding,
    graphs,
    keep_initializers_,
    makers,
    prepend_nodes_,
    readers,
    set_initializers_,
    set_nodes_,
    times_read,
)


def graph() -> onnx.GraphProto:
    """y = (x @ w + b) * b, with an unused initializer u."""
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Add", ["p", "b"], ["s"]),
            helper.make_node("Mul", ["s", "b"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.ones(2, np.float32), name) for name in ("w", "b", "u")],
    )


def test_who_makes_and_who_reads_a_value() -> None:
    made, read_by, times = makers(graph()), readers(graph()), times_read(graph())
    assert {name: node.op_type for name, node in made.items()} == {"p": "MatMul", "s": "Add", "y": "Mul"}
    assert [node.op_type for node in read_by["b"]] == ["Add", "Mul"]
    assert (times["b"], times["y"], times["u"]) == (2, 1, 0)


def test_what_feeds_a_node_is_found_through_others() -> None:
    assert feeding(graph(), lambda node: node.op_type == "Add") == {"p", "b", "x", "w"}
    assert feeding(graph(), lambda node: node.op_type == "MatMul") == {"x", "w"}


def test_edits_keep_the_order_of_what_stays() -> None:
    edited = graph()
    keep_initializers_(edited, readers(edited))
    assert [tensor.name for tensor in edited.initializer] == ["w", "b"]
    set_initializers_(edited, reversed(list(edited.initializer)))
    assert [tensor.name for tensor in edited.initializer] == ["b", "w"]
    prepend_nodes_(edited, [helper.make_node("Identity", ["x"], ["i"])])
    assert [node.op_type for node in edited.node] == ["Identity", "MatMul", "Add", "Mul"]
    set_nodes_(edited, edited.node[1:])
    assert [node.op_type for node in edited.node] == ["MatMul", "Add", "Mul"]


def test_graphs_inside_nodes_are_found() -> None:
    outer = graph()
    outer.node.append(helper.make_node("If", ["c"], ["z"], then_branch=graph(), else_branch=graph()))
    assert len(list(graphs(outer))) == 3
