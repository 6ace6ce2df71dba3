"""The one gate through which an exported file must go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import GateFailed
from searchkit.core.task import Task
from searchkit.onnx.parity import require_parity

X = np.arange(6, dtype=np.float32).reshape(3, 2)
VAL = {"val": {"x": X}}
TASK = cast(Task, SimpleNamespace(inputs=(TensorSpec("x", (2,)),), raw=VAL.__getitem__))


def test_what_agrees_passes_with_its_proof() -> None:
    found = require_parity(lambda raw: {"y": raw["x"]}, lambda raw: {"y": raw["x"] + 1e-6}, TASK, otherwise="Stop.")
    assert found.agrees and found.n == 3 and 0 < found.max_abs < 1e-5


def test_what_disagrees_is_refused_with_the_worst_example_and_what_follows() -> None:
    def wrong(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": raw["x"] + 0.5 * (raw["x"] == 3.0)}

    with pytest.raises(GateFailed, match=r"differ by up to 0\.5 \(example 1 of 3 of val\)\. Stop\."):
        require_parity(wrong, lambda raw: {"y": raw["x"]}, TASK, otherwise="Stop.")
