"""What fills ONNX files: one row a file, in bytes, and what the operators take by kind.

PYTHONPATH=. python benchmarks/file_bytes.py runs/NAME/bundle/model_fp32.onnx runs/NAME/bundle/model.onnx
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

COLUMNS = ("file", "all", "int8", "fp16", "fp32", "other numbers", "about tensors", "operators", "attributes", "names")


def field(length: int) -> int:
    """Of a field of `length` bytes, with its tag and its length."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length


def fields(messages: Iterable[Any]) -> int:
    return sum(field(message.ByteSize()) for message in messages)


def row(path: Path) -> tuple[list[int], Counter[str]]:
    model = onnx.load(path)
    graph, numbers = model.graph, Counter[str]()
    for tensor in graph.initializer:
        numbers[onnx.TensorProto.DataType.Name(tensor.data_type)] += len(tensor.raw_data)
    known = [numbers.pop(kind, 0) for kind in ("INT8", "FLOAT16", "FLOAT")]
    stored = sum(known) + numbers.total()
    attributes = fields(attribute for node in graph.node for attribute in node.attribute)
    names = sum(field(len(name)) for node in graph.node for name in [*node.input, *node.output])
    operators = fields(graph.node)
    by_kind = Counter[str]()
    for node in graph.node:
        by_kind[node.op_type] += field(node.ByteSize())
    about = fields(graph.initializer) - stored
    cells = [*known, numbers.total(), about, operators - attributes - names, attributes, names]
    return [model.ByteSize(), *cells], by_kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    print("| " + " | ".join(COLUMNS) + " | most of the operators |\n|" + "---|" * (len(COLUMNS) + 1))
    for path in parser.parse_args().files:
        cells, by_kind = row(path)
        most = ", ".join(f"{kind} {size:,}" for kind, size in by_kind.most_common(4))
        print("| " + " | ".join([str(path), *(f"{cell:,}" for cell in cells), most]) + " |")


if __name__ == "__main__":
    main()
