"""Volumes: layouts, bits, augmentations, the solids, and the family's own networks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space_file import load_space
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.tasks import registry
from searchkit.tasks.modalities.voxels import CLASSES, SIDE, _solids, channel_order, flip, shift
from searchkit.train import channels_last_

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "cnn3d.py")
random = np.random.default_rng(0)


def volumes() -> torch.Tensor:
    return torch.arange(1.0, 2 * 6 * 5 * 16 + 1).view(1, 2, 6, 5, 16).repeat(60, 1, 1, 1, 1)


def test_flip_mirrors_each_axis_of_some() -> None:
    x = volumes()
    flipped = flip(x, torch.Generator().manual_seed(0))
    kinds = set()
    for row in flipped:
        matches = [
            axes for axes in np.ndindex(2, 2, 2) if torch.equal(row, x[0].flip([k + 1 for k in range(3) if axes[k]]))
        ]
        assert len(matches) == 1
        kinds.add(matches[0])
    assert len(kinds) == 8


def test_shift_moves_by_whole_voxels_and_repeats_the_border() -> None:
    x = volumes()
    moved = shift(x, torch.Generator().manual_seed(0))
    by = (moved[:, 0, 2, 2, 8] - x[:, 0, 2, 2, 8]).to(torch.int64).tolist()
    assert {n % 16 if n % 16 < 8 else n % 16 - 16 for n in by} == {-2, -1, 0, 1, 2}
    padded = nn.functional.pad(x[0], (2, 2, 1, 1, 1, 1), mode="replicate")
    for row in moved:
        found = [
            torch.equal(row, padded[:, a : a + 6, b : b + 5, c : c + 16])
            for a in range(3) for b in range(3) for c in range(5)
        ]  # fmt: skip
        assert sum(found) == 1


def test_layouts() -> None:
    shapes = {(5, 6, 7): "DHW", (3, 8, 8, 8): "CDHW", (8, 8, 8, 3): "DHWC", (4, 4, 4, 1): "DHWC", (1, 4, 4, 4): "CDHW"}
    assert {shape: channel_order(shape) for shape in shapes} == shapes


def test_packed_bits_are_the_volumes_that_were_packed(tmp_path: Path) -> None:
    x = random.integers(0, 2, (40, 5, 6, 7)).astype(np.uint8)
    np.savez(tmp_path / "bits.npz", x=np.packbits(x.reshape(40, -1), axis=1), y=np.arange(40) % 2, shape=x.shape[1:])
    np.savez(tmp_path / "whole.npz", x=x, y=np.arange(40) % 2)
    packed, whole = (
        registry.load({"data": str(tmp_path / f), "modality": "voxels"}) for f in ("bits.npz", "whole.npz")
    )
    assert packed.fingerprint == whole.fingerprint


def test_solids_differ_in_form_alone() -> None:
    x, target = _solids()
    assert x.shape == (1500, SIDE, SIDE, SIDE) and np.bincount(target).tolist() == [300] * len(CLASSES)
    means = np.array([x[target == k].mean() for k in range(len(CLASSES))])
    spreads = np.array([x[target == k].mean(axis=(1, 2, 3)).std() / np.sqrt(300) for k in range(len(CLASSES))])
    assert (np.abs(means - means.mean()) < 4 * spreads).all()


def test_a_linear_model_does_clearly_worse_on_solids_than_a_convolution() -> None:
    task = registry.load({"task": "solids"})
    reached = []
    arch = SPACE.arch(
        depths=(1, 1), widths=(8, 16), block="plain", stem_width=8, stem_downsamples=True, downsample="max"
    )
    nets = (nn.Sequential(nn.Flatten(), nn.Linear(SIDE**3, 5)), SPACE.build(arch, task.spec))
    for net in nets:
        torch.manual_seed(0)
        training = replace(SPACE.training.default, epochs=6)
        task.fit(net, FitPlan(training, seed=0, until=6), TrainState())
        with torch.no_grad():
            right = [
                (net.eval()(b.inputs[0]).argmax(1) == b.target.argmax(1)).float()
                for b in task.batches("val", Training(), seed=0, device="cpu")
            ]
        reached.append(float(torch.cat(right).mean()))
    assert reached[1] > reached[0] + 0.1, reached


# ── The family ───────────────────────────────────────────────────────────────────────────────────────────────────────


def spec(size: int, n_classes: int = 40) -> DataSpec:
    return DataSpec(
        "voxels", (TensorSpec("voxels", (1, size, size, size)),), (TensorSpec("logits", (n_classes,)),), n_classes
    )


def test_voxnet_has_its_published_size() -> None:
    net = SPACE.build(SPACE.points["voxnet"], spec(32))
    assert sum(p.numel() for p in net.parameters()) == 921_736  # Maturana & Scherer 2015, ModelNet40
    assert net(torch.zeros(2, 1, 32, 32, 32)).shape == (2, 40)


def test_a_2_plus_1_d_network_has_the_weights_of_the_full_one() -> None:
    """To the rounding of the widths between (Tran et al. 2018, section 3.5)."""
    sizes = [
        sum(p.numel() for p in SPACE.build(SPACE.points[n], spec(16)).parameters()) for n in ("r3d-10", "r(2+1)d-10")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_what_is_too_small_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="2x2x2 is too small to halve before stage 2"):
        SPACE.build(SPACE.arch(depths=(1, 1, 1), widths=(4, 4, 4)), spec(2))
    with pytest.raises(Infeasible, match="leaves nothing"):
        SPACE.build(replace(SPACE.points["voxnet"], stem_kernel=3), spec(6))
    with pytest.raises(Infeasible, match="residual block adds"):
        SPACE.build(SPACE.arch(depths=(1,), widths=(4,), padding="valid"), spec(12))


def test_channels_last_changes_no_answer() -> None:
    arch = SPACE.arch(depths=(1, 1), widths=(8, 8))
    torch.manual_seed(0)
    net = SPACE.build(arch, spec(8)).eval()
    x = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        before = net(x)
        channels_last_(net)
        weights = [p for p in net.parameters() if p.ndim == 5 and p.shape[1] > 1]
        assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights) and weights
        torch.testing.assert_close(
            net(x.contiguous(memory_format=torch.channels_last_3d)), before, rtol=1e-4, atol=1e-5
        )


def test_a_training_with_channels_last_runs() -> None:
    task = registry.load({"task": "solids"})
    net = SPACE.build(SPACE.arch(depths=(1,), widths=(4,), stem_width=4, stem_downsamples=True), task.spec)
    plan = FitPlan(Training(epochs=1, batch_size=256), seed=0, until=1, channels_last=True)
    state = task.fit(net, plan, TrainState())
    assert np.isfinite(state.numbers["curve"][0]["loss"])


# ── Real data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adrenal(stored_data: Callable[[str], Path]) -> None:
    path = stored_data("adrenal3d") / "adrenal32_bits.npz"
    task = registry.load({"data": str(path), "modality": "voxels"})
    assert task.summary()["rows"] == {"train": 1188, "val": 98, "test": 298}
    assert task.spec.inputs[0].shape == (1, 32, 32, 32) and task.spec.n_classes == 2
    majority = np.bincount(task.data.target_of("test")).max() / 298
    assert majority == pytest.approx(0.768, abs=0.001)
