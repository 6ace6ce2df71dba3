"""Reconstruction: noise to take off, the bound of a VAE in nats, and the linear rival of benchmarks/pca.py."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.network import Variational
from searchkit.core.space_file import load_space
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.tasks import registry
from searchkit.tasks.problems.denoising import Noise
from searchkit.tasks.problems.reconstruction import elbo

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "autoencoder.py")


def test_noise_is_what_it_says() -> None:
    x = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    gaussian = Noise.parse("gaussian:0.5").add(x, torch.Generator().manual_seed(1))
    assert float((gaussian - x).std()) == pytest.approx(0.5, rel=0.02)
    masked = Noise.parse("mask:0.3").add(x, torch.Generator().manual_seed(1))
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(masked[masked != 0], x[masked != 0])


@pytest.mark.parametrize("noise", ["gaussian:0.5", "mask:0.25"])
def test_val_is_noisy_once_for_all_and_the_truth_is_clean(noise: str) -> None:
    task, again = (registry.load({"task": "digits-denoising", "noise": noise}) for _ in range(2))
    plain = registry.load({"task": "digits-reconstruction"})
    noisy, clean = task.raw("val")["image"], plain.raw("val")["image"]
    assert noisy.dtype == clean.dtype == np.uint8 and not np.array_equal(noisy, clean)
    assert np.array_equal(noisy, again.raw("val")["image"]) and task.fingerprint == again.fingerprint
    assert np.array_equal(task.data.target_of("val"), clean)
    other = registry.load({"task": "digits-denoising", "noise": "gaussian:0.1"})
    assert other.fingerprint != task.fingerprint
    perfect = task.evaluate(lambda inputs: {"reconstruction": clean.astype(np.float32)}, "val")
    assert perfect.metrics["mse_to_clean"] == 0 < perfect.metrics["mse_of_input"]
    copied = task.evaluate(lambda inputs: {"reconstruction": noisy.astype(np.float32)}, "val")
    assert copied.metrics["mse_to_clean"] == pytest.approx(copied.metrics["mse_of_input"])


def test_training_draws_new_noise_on_the_same_clean_examples() -> None:
    task = registry.load({"task": "digits-denoising"})
    training = Training(batch_size=64)
    first, again, other = (list(task.batches("train", training, seed=seed, device="cpu")) for seed in (1, 1, 2))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(first, again, strict=True))
    restore = task.postprocessor()
    rows = torch.cat([restore(batch.target) for batch in other]).round().to(torch.uint8).numpy()
    wanted = task.data.target_of("train")
    assert sorted(row.tobytes() for row in rows) == sorted(row.tobytes() for row in wanted)
    # what the network is given is a raw picture, scaled: whole numbers from 0 on, and not those that are kept
    raw = torch.cat([restore(batch.inputs[0]) for batch in other])
    assert float((raw - raw.round()).abs().max()) < 1e-3 and float(raw.min()) > -1e-3
    kept = {row.tobytes() for row in task.raw("train")["image"]}
    assert not any(row.tobytes() in kept for row in raw.round().to(torch.uint8).numpy())


def test_a_network_takes_noise_off_that_it_has_not_seen() -> None:
    task = registry.load({"task": "digits-denoising"})
    torch.manual_seed(0)
    net = SPACE.build(SPACE.arch(widths=(256,), code=32), task.spec)
    task.fit(net, FitPlan(Training(epochs=25, lr=4e-3), seed=0, until=25), TrainState())
    from searchkit.onnx.predictor import TorchPredictor, deploy

    predict = TorchPredictor(deploy(task.preprocessor(), net, task.postprocessor()), task.inputs, task.answers)
    found = task.evaluate(predict, "val")
    assert found.metrics["mse_to_clean"] < 0.9 * found.metrics["mse_of_input"]


def test_tables_take_noise_too_and_survive_packing(tmp_path: Path) -> None:
    lines = ["a,b", *(f"{k},{(k * 7) % 13 + 0.5}" for k in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    task = registry.load({"data": str(tmp_path / "t.csv"), "noise": "mask:0.5"})
    config, arrays = task.pack()
    other = registry.unpack(json.loads(json.dumps(config)), arrays)
    assert other.fingerprint == task.fingerprint and other.summary()["noise"] == "mask:0.5"
    masked = task.raw("test")["features"] != task.data.target_of("test")
    assert 0.2 < masked.mean() < 0.8


# ── Nats ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Unit(nn.Module):
    """A decoder that gives its code, which is drawn around x / 2 with deviation 1 / sqrt(2): for data that are normal
    with deviation sqrt(2) this is the true posterior of an observation of a normal code with noise of deviation 1."""

    def draw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = x / 2, 0.5
        code = mean + math.sqrt(variance) * torch.randn_like(x)
        nats = 0.5 * (variance + mean.square() - 1 - math.log(variance))
        return code, nats.flatten(1).sum(1)


class Tenfold(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * x


def test_the_bound_is_the_log_density_where_the_posterior_is_true() -> None:
    x = math.sqrt(2) * torch.randn(4000, 3, generator=torch.Generator().manual_seed(5))
    assert isinstance(Unit(), Variational)
    found = elbo(Unit(), x, x, nn.Identity())
    exact = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).sum(1)
    assert found is not None and found.shape == (4000,)
    assert found.mean() == pytest.approx(float(exact.mean()), abs=0.02)
    raw = elbo(Unit(), x, x, Tenfold())
    assert raw is not None and raw.mean() == pytest.approx(found.mean() - 3 * math.log(10), abs=1e-4)


def test_a_vae_is_exported_with_the_mean_of_its_code_and_reports_its_bound(tmp_path: Path) -> None:
    from searchkit.onnx import io as onnx_io
    from searchkit.onnx.predictor import OnnxPredictor, deploy

    task = registry.load({"task": "digits-reconstruction"})
    torch.manual_seed(0)
    net = SPACE.build(SPACE.arch(widths=(64,), code=8, variational=True), task.spec)
    untrained = task.inspect(net.eval(), "val")["elbo"]
    task.fit(net, FitPlan(Training(epochs=5, lr=3e-3), seed=0, until=5), TrainState())
    trained = task.inspect(net, "val")["elbo"]
    assert trained > untrained and task.inspect(net, "val")["elbo"] == trained
    rows = {"image": task.raw("val")["image"][:16]}
    path = tmp_path / "vae.onnx"
    onnx_io.export(
        deploy(task.preprocessor(), net, task.postprocessor()), task.inputs, task.answers, path, example=rows
    )
    first, second = (OnnxPredictor(path)(rows)["reconstruction"] for _ in range(2))
    assert np.array_equal(first, second)
    scaled = task.preprocessor()(torch.from_numpy(rows["image"]))
    with torch.no_grad():
        at_mean = task.postprocessor()(net.decoder(net.to_code(net.encoder(scaled))))
    np.testing.assert_allclose(first, at_mean.numpy(), rtol=1e-3, atol=1e-3)
    plain = SPACE.build(SPACE.arch(widths=(64,), code=8), task.spec).eval()
    assert task.inspect(plain, "val") == {}


def test_a_family_without_a_code_to_draw_says_nothing() -> None:
    spec = DataSpec("tabular", (TensorSpec("x", (12,)),), (TensorSpec("reconstruction", (12,)),))
    assert SPACE.build(SPACE.arch(widths=(8,), code=4), spec).draw(torch.randn(3, 12)) is None


def test_the_rival_is_pca() -> None:
    """benchmarks/pca.py against scikit-learn's PCA: the projection, and the density of probabilistic PCA."""
    from importlib.util import module_from_spec, spec_from_file_location

    from sklearn.decomposition import PCA

    found = spec_from_file_location("pca", Path(__file__).parents[2] / "benchmarks" / "pca.py")
    assert found is not None and found.loader is not None
    rival = module_from_spec(found)
    sys.modules[found.name] = rival  # its dataclasses look there for their module
    found.loader.exec_module(rival)
    task = registry.load({"task": "digits-reconstruction"})
    train, test = (
        torch.cat(list(rival.scaled(task, split))).flatten(1).double().numpy() for split in ("train", "test")
    )
    ours, theirs = rival.spectrum(task), PCA(n_components=10, svd_solver="full").fit(train)
    projected = ours.pca(10)(torch.from_numpy(test).float()).numpy()
    np.testing.assert_allclose(projected, theirs.inverse_transform(theirs.transform(test)), atol=1e-4)
    # scikit-learn divides by n - 1 where the maximum of the likelihood divides by n
    np.testing.assert_allclose(ours.log_density(test, 10), theirs.score_samples(test), rtol=0.01)
