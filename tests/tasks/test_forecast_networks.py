"""The families' heads for forecasts, their export, and the bundle's metric."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hourly_series import made
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Space
from searchkit.core.space_file import load_space
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor, deploy
from searchkit.tasks import registry
from searchkit.testing.families import parameter_names
from searchkit.testing.fixture import Fixture
from searchkit.testing.suite import run_check

ROOT = Path(__file__).parents[2]

FAMILIES = ("rnn", "mlp", "cnn1d", "transformer")
FORECAST = DataSpec("series", (TensorSpec("series", (3, 32)),), (TensorSpec("forecast", (2, 8)),))


def family(name: str) -> Space:
    return load_space(ROOT / "spaces" / f"{name}.py")


@pytest.mark.parametrize("name", FAMILIES)
def test_families_answer_each_step_to_come(name: str) -> None:
    space = family(name)
    assert space.accepts(FORECAST) is None
    x = torch.randn(4, 3, 32)
    for apart in (True, False):
        for direct in (True, False):
            torch.manual_seed(0)
            net = space.build(replace(space.arch(), apart=apart, direct=direct, level=True), FORECAST).eval()
            with torch.no_grad():
                out = net(x)
                moved = net(x + torch.tensor([5.0, -2.0, 3.0])[:, None])
            assert out.shape == (4, 2, 8)
            # a series that stands higher is answered as much higher
            torch.testing.assert_close(
                moved - out, torch.tensor([5.0, -2.0])[:, None].expand(4, 2, 8), rtol=0, atol=1e-4
            )
            if apart:
                with torch.no_grad():
                    torch.testing.assert_close(net(x[:, [1, 0, 2]]), out[:, [1, 0]], rtol=1e-4, atol=1e-5)
                    torch.testing.assert_close(net(torch.cat([x[:, :2], 9 + x[:, 2:]], 1)), out)


def test_the_linear_map_starts_as_nothing_and_adds_to_the_network() -> None:
    space = family("rnn")
    with_map, without = (
        _seeded(lambda direct=direct: space.build(space.arch(apart=True, direct=direct, level=True), FORECAST))
        for direct in (True, False)
    )
    x = torch.randn(4, 3, 32)
    without.load_state_dict({k: v for k, v in with_map.state_dict().items() if not k.startswith("direct")})
    with torch.no_grad():
        torch.testing.assert_close(with_map(x), without(x))
        with_map.direct.weight.copy_(torch.randn(8, 32))
        added = (x - x[:, :, -1:])[:, :2] @ with_map.direct.weight.T
        torch.testing.assert_close(with_map(x), without(x) + added, rtol=1e-4, atol=1e-4)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def test_other_families_refuse_a_forecast() -> None:
    for name in ("hybrid", "autoencoder", "cnn", "gpt"):
        reason = family(name).accepts(FORECAST)
        assert reason is not None and len(reason) > 10


def test_parameters_of_a_forecast_keep_their_names(tmp_path: Path) -> None:
    """A stored study knows its trials by them; those of other data are in tests/golden."""
    spec = made(tmp_path).spec
    for name in FAMILIES:
        asked = set(parameter_names(family(name), spec))
        assert {"apart", "direct", "level"} <= asked and "hop" not in asked
        assert ("frames" in asked) == (name in ("rnn", "transformer"))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return Fixture(family("rnn"), registry.load({"task": "mackey-glass"}), tmp_path_factory.mktemp("rnn"))


CHECKED = (
    "parameters_keep_their_kind", "every_parameter_matters", "output_shape", "gradients", "eval_ignores_other_rows",
    "weights_round_trip", "export_agrees", "prune_shrinks", "distill_matches", "quantize_shrinks",
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKED)
def test_rnn_holds_on_a_series_to_be_continued(check: str, subject: Fixture) -> None:
    result = run_check(check, subject)
    assert result.outcome == "passed", result.detail


def test_the_exported_file_takes_and_gives_the_series_own_units(tmp_path: Path) -> None:
    """Channels in the table's order, though one in the middle is forecast; any number of windows."""
    task = made(tmp_path, target="pulse")
    space = family("rnn")
    torch.manual_seed(0)
    net = space.build(space.arch(hidden=8, stem_width=8, apart=True, direct=True, level=True), task.spec)
    deployed = deploy(task.preprocessor(), net, task.postprocessor())
    raw = task.raw("val")
    onnx_io.export(
        deployed, task.inputs, task.answers, tmp_path / "m.onnx", example={"series": raw["series"][:1].copy()}
    )
    found = OnnxPredictor(tmp_path / "m.onnx")(raw)["forecast"]
    wanted = TorchPredictor(deployed, task.inputs, task.answers)(raw)["forecast"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    assert found.shape == task.truth("val").shape and 400 < found.mean() < 600


def test_verify_measures_in_the_channels_units() -> None:
    verify = runpy.run_path(str(ROOT / "searchkit" / "stages" / "bundle" / "verify.py"), run_name="verify")
    rng = np.random.default_rng(0)
    answers, target, unit = rng.normal(size=(5, 2, 4)), rng.normal(size=(5, 2, 4)), [0.5, 20.0]
    wanted = float((((answers - target) / np.array(unit)[:, None]) ** 2).mean())
    assert verify["metric"]("mse", answers, {}, target, [], unit) == pytest.approx(wanted)
    assert verify["metric"]("mse", answers, {}, target, []) == pytest.approx(float(((answers - target) ** 2).mean()))
    with pytest.raises(Exception, match="no targets 'y'"):
        verify["metric"]("mse", answers, {"series": answers}, None, [], unit)


def test_a_window_too_short_for_the_stem_is_infeasible() -> None:
    space = family("rnn")
    short = DataSpec("series", (TensorSpec("series", (1, 8)),), (TensorSpec("forecast", (1, 2)),))
    with pytest.raises(Infeasible, match="a frame of 9"):
        space.build(space.arch(frame=9), short)
