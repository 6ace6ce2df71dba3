"""How the report writes settings and facts, and whether what it draws fits its picture."""

from __future__ import annotations

import re
from typing import Any

import pytest

from searchkit.report import charts
from searchkit.report.formatting import setting
from searchkit.report.svg import WIDTH


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.010073994535603377, "0.01007"),
        (1.0, "1"),
        (64, "64"),
        (True, "yes"),
        ("", "none"),
        (None, "none"),
        ([], "none"),
        ([32, 64], "32, 64"),
        ({"train": 1222, "val": 216}, "train (1,222), val (216)"),
        ({"name": "image", "shape": [8, 8], "dtype": "uint8", "batched": True, "axis": 0}, "image: uint8, 8 × 8"),
        ({"name": "x", "shape": [], "dtype": "int64"}, "x: int64, one number"),
        (
            [{"name": "x", "shape": [3, None], "dtype": "float32"}, {"name": "n", "shape": [], "dtype": "int64"}],
            "x: float32, 3 × any; n: int64, one number",
        ),
        ([{"name": "age", "kind": "numeric", "categories": []}], "age (numeric)"),
        (list(range(41)), ", ".join(map(str, range(40))) + " … 41 in all"),
    ],
)
def test_a_setting_is_written_for_people(value: Any, shown: str) -> None:
    assert setting(value) == shown


def test_the_numbers_beside_the_layers_are_in_the_picture() -> None:
    rows: Any = [
        {"name": "stem", "params_before": 800, "params_after": 800},
        {"name": "head", "params_before": 12_102_400, "params_after": 11_040_000},
    ]
    labels = re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([\d,]+ → [\d,]+)<', charts.layers(rows))
    assert len(labels) == 2
    for x, label in labels:
        assert float(x) + 6.7 * len(label) <= WIDTH, label  # the width of a digit in 12 px, as it was measured
