"""The preprocessor and the postprocessor inside the exported graph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import make_csv, small_net, write_npz
from torch import nn

from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask

random = np.random.default_rng(0)

ONE_OF_EACH = (
    "digits", "digits-anomaly", "digits-denoising", "digits-generation", "digits-reconstruction", "digits-restyling",
    "breast-cancer", "diabetes", "graph-shapes", "mackey-glass", "number-words", "pydoc-topics", "solids", "tones",
    "CartPole-v1", "FrozenLake-v1",
)  # fmt: skip
"""Packaged tasks of most problems and modalities."""

ODD = np.arange(40) % 2


def export_cases(tmp_path: Path) -> dict[str, ArrayTask]:
    pixels = random.integers(0, 256, (40, 6, 8, 3)).astype(np.uint8)
    series, lengths = random.normal(size=(40, 2, 10)), random.integers(1, 11, 40)
    return {
        "table": registry.load({"data": make_csv(tmp_path / "people.csv"), "target": "good"}),
        "picture": registry.load({"data": write_npz(tmp_path / "i.npz", x=pixels)}),
        "series": registry.load({"data": write_npz(tmp_path / "s.npz", x=series, y=ODD, lengths=lengths)}),
    }


class Pooled(nn.Module):
    """A linear network on the first input that takes lengths too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.net(x) / lengths.to(x.dtype).view(-1, 1)


@pytest.mark.parametrize("case", ["table", "picture", "series"])
def test_the_exported_graph_takes_raw_values(tmp_path: Path, case: str) -> None:
    task = export_cases(tmp_path)[case]
    torch.manual_seed(0)
    net: nn.Module = small_net(task)
    if task.spec.varies_in_length:
        net = Pooled(net)
    deployed = Deployed(task.preprocessor(), net, task.postprocessor()).eval()
    raw = task.raw("val")
    onnx_io.export(deployed, task.inputs, task.answers, tmp_path / "m.onnx", example=raw)
    ours = TorchPredictor(deployed, task.inputs, task.answers)(raw)
    theirs = OnnxPredictor(tmp_path / "m.onnx")(raw)
    name = task.answers[0].name
    assert theirs[name].shape[1:] == task.answers[0].shape
    np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-4)


def storages(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in module.state_dict().values() if tensor.numel()}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_each_caller_gets_modules_of_its_own(name: str) -> None:
    """So that one who moves them to another device, or changes them, moves them for nobody else."""
    task = registry.load({"task": name})
    for make in (task.preprocessor, task.postprocessor):
        first, second = make(), make()
        assert first is not second and storages(first).isdisjoint(storages(second))
        before = {key: value.clone() for key, value in second.state_dict().items()}
        first.double()
        for key, value in make().state_dict().items():
            assert value.dtype == before[key].dtype and torch.equal(value, before[key])


def test_the_restored_picture_is_the_raw_one(tmp_path: Path) -> None:
    task = export_cases(tmp_path)["picture"]
    raw = torch.from_numpy(task.raw("test")["image"])
    assert torch.allclose(task.postprocessor()(task.preprocessor()(raw)), raw.float(), atol=1e-3)
