"""Reading and editing an ONNX graph in place: who makes a value, who reads it, and which tensors and nodes it keeps.

protobuf's repeated fields cannot be assigned to: each change deletes what is there and extends it, which is written
here once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its nodes (of an If, a Loop)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value, by the value's name; inputs and initializers have none."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each value, in their order, by the value's name."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def times_read(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is read, by its name; an answer of the graph counts once more."""
    return Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])


def feeding(graph: onnx.GraphProto, is_wanted: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """The names of the values that a wanted node depends on, directly or through others."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if is_wanted(node) or found.intersection(node.output):
            found.update(node.input)
    return found


def keep_initializers_(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Drop every initializer whose name is not in `names`; those that stay keep their order."""
    wanted = set(names)
    set_initializers_(graph, [tensor for tensor in graph.initializer if tensor.name in wanted])


def set_initializers_(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Put these in place of all initializers."""
    kept = list(tensors)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def prepend_nodes_(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put nodes before all others: a graph's nodes lie in an order in which they can run."""
    set_nodes_(graph, [*nodes, *graph.node])


def set_nodes_(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put these in place of all nodes."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
