"""A family file that was written for release 0.1 still loads, builds and keeps its own loss term, with a note."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.network import HasAuxLoss
from searchkit.core.old_names import MOVED, RENAMED, accepted
from searchkit.core.space_file import load_space
from searchkit.core.training import Categorical, LogUniform, Uniform

FAMILY = """
from dataclasses import dataclass
from torch import nn
from searchkit.types import Between, Budget, Choice, DataSpec, Penalised, Space, Training, TrainingSpace
from searchkit.layers import pool
from spaces._layers import activation

@dataclass(frozen=True)
class Arch:
    width: int

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.last = nn.Linear(4, 2)
    def forward(self, x):
        return self.last(x)
    def penalty(self):
        return 0.5 * self.last.weight.square().sum()

SPACE = Space(
    name="old", arch=Arch, accepts=lambda spec: None, sample=lambda trial, spec: Arch(4),
    build=lambda arch, spec: Net(arch.width), task="iris", budget=Budget(), paper="",
    training=TrainingSpace(ranges={
        "lr": Between(1e-3, 1e-1, log=True), "mixup": Between(0.0, 1.0), "batch_size": Choice((16, 32)),
    }),
)
"""


def test_a_family_of_the_last_release_loads_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "old.py"
    file.write_text(FAMILY)
    with caplog.at_level(logging.WARNING, logger="searchkit"):
        space = load_space(file)
    assert dict(space.training.ranges) == {
        "lr": LogUniform(1e-3, 1e-1), "mixup": Uniform(0.0, 1.0), "batch_size": Categorical((16, 32)),
    }  # fmt: skip
    spec = DataSpec("tabular", (TensorSpec("x", (4,)),), (TensorSpec("logits", (2,)),), 2)
    net = space.build(space.arch(4), spec)
    assert isinstance(net, HasAuxLoss)
    torch.testing.assert_close(net.aux_loss(), 0.5 * net.last.weight.square().sum())
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "old.py imports searchkit.types, which moved to searchkit.core" in told
    assert "rename Net.penalty to aux_loss" in told
    assert not any(name in sys.modules for name in MOVED), "only the family sees the old names"


def test_every_new_name_exists() -> None:
    with accepted("here"):
        from searchkit.layers_attention import Distances  # type: ignore[import-not-found]

        from searchkit import types  # type: ignore[attr-defined]

        assert Distances.__name__ == RENAMED["Distances"]
        with pytest.raises(ImportError, match="Nothing"):
            from searchkit.types import Nothing  # type: ignore[import-not-found]  # noqa: F401
    found = 0
    for module in MOVED.values():
        for home in module:
            found += sum(name in vars(__import__(home, fromlist=["x"])) for name in RENAMED.values())
    assert found >= len(RENAMED) and types.Port is TensorSpec
