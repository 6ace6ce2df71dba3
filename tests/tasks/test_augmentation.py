"""Augmentations move and blank what they should; batches of any size are the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import write_npz

from searchkit.core.errors import BadInput
from searchkit.core.training import Training
from searchkit.tasks import registry
from searchkit.tasks.modalities.image import crop, cutout, flip
from searchkit.tasks.modalities.series import shift


def pictures() -> torch.Tensor:
    return torch.arange(1.0, 4 * 3 * 16 * 12 + 1).view(4, 3, 16, 12)


def test_crop_shifts_each_picture_by_whole_pixels() -> None:
    x = pictures().repeat(50, 1, 1, 1)
    moved = crop(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and not torch.equal(moved, x)
    center = moved[:, 0, 8, 6] - x[:, 0, 8, 6]
    allowed = {dy * 12 + dx for dy in (-2, -1, 0, 1, 2) for dx in (-1, 0, 1)}
    assert {int(value) for value in center} == allowed
    assert torch.equal(moved[:, 1] - moved[:, 0], x[:, 1] - x[:, 0])  # the channels of a picture move together


def test_shift_moves_each_series_by_whole_steps_and_fills_up_with_zeros() -> None:
    x = torch.arange(1.0, 81).view(1, 2, 40).repeat(200, 1, 1)
    moved = shift(x, torch.Generator().manual_seed(0))
    by = (moved[:, 0, 20] - x[:, 0, 20]).to(torch.int64)
    assert set(by.tolist()) == set(range(-5, 6))
    for row, n in zip(moved, by.tolist(), strict=True):  # the channels of a series move together
        kept = torch.roll(x[0], -n, 1)
        kept[:, (slice(40 - n, 40) if n > 0 else slice(0, -n))] = 0
        assert torch.equal(row, kept)


def test_flip_mirrors_some_and_cutout_blanks_a_square() -> None:
    x = pictures().repeat(10, 1, 1, 1)
    flipped = flip(x, torch.Generator().manual_seed(0))
    is_same = (flipped == x).flatten(1).all(1)
    is_mirror = (flipped == x.flip(3)).flatten(1).all(1)
    assert bool((is_same ^ is_mirror).all()) and 5 < int(is_same.sum()) < 35
    cut = cutout(x, torch.Generator().manual_seed(0))
    blank = (cut == 0).flatten(1).sum(1)
    assert int(blank.min()) >= 3 * 9 and int(blank.max()) == 3 * 36
    assert torch.equal(cut[cut != 0], x[cut != 0])


def test_a_reconstruction_undoes_what_corrupts_and_follows_what_moves() -> None:
    task = registry.load({"task": "digits-reconstruction"})
    moved = next(task.batches("train", Training(augment=("crop",)), seed=0, device="cpu"))
    assert torch.equal(moved.inputs[0], moved.target)
    cut = next(task.batches("train", Training(augment=("cutout",)), seed=0, device="cpu"))
    assert not torch.equal(cut.inputs[0], cut.target)
    plain = next(task.batches("train", Training(), seed=0, device="cpu"))
    assert torch.equal(cut.target, plain.target)


def test_a_last_batch_of_one_example_is_left_out() -> None:
    task = registry.load({"task": "wine"})  # 121 examples to train on
    sizes = [len(batch.target) for batch in task.batches("train", Training(batch_size=60), seed=0, device="cpu")]
    assert task.n_examples("train") == 121 and sizes == [60, 60]


@pytest.mark.parametrize("vary", [False, True])
def test_batches_of_one_example_are_made_if_they_are_asked_for(tmp_path: Path, vary: bool) -> None:
    arrays = {"x": np.random.default_rng(0).normal(size=(40, 1, 9)), "y": np.arange(40) % 2}
    lengths = {"lengths": np.arange(40) % 9 + 1} if vary else {}
    task = registry.load({"data": write_npz(tmp_path / "a.npz", **arrays, **lengths)})
    batches = list(task.batches("train", Training(batch_size=1), seed=0, device="cpu"))
    assert [len(batch.target) for batch in batches] == [1] * task.n_examples("train")


@pytest.mark.parametrize("augment", [("jitter",), ("shift",), ("scale", "shift", "jitter")], ids=str)
def test_padding_stays_zero(tmp_path: Path, augment: tuple[str, ...]) -> None:
    x, lengths = np.random.default_rng(0).normal(size=(60, 2, 15)), np.random.default_rng(1).integers(1, 16, 60)
    task = registry.load({"data": write_npz(tmp_path / "a.npz", x=x, y=np.arange(60) % 2, lengths=lengths)})
    plain, changed = (
        next(task.batches("train", Training(augment=names), seed=0, device="cpu")).inputs for names in ((), augment)
    )
    assert torch.equal(plain[1], changed[1]) and not torch.equal(plain[0], changed[0])
    is_padding = torch.arange(15) >= changed[1].view(-1, 1, 1)
    assert is_padding.any() and not changed[0].masked_select(is_padding.expand_as(changed[0])).any()


def test_an_unknown_augmentation_names_those_that_exist() -> None:
    task = registry.load({"task": "mnist1d"})
    with pytest.raises(BadInput, match="No augmentation 'crop' for series data; allowed: jitter, scale, shift."):
        next(task.batches("train", Training(augment=("crop",)), seed=0, device="cpu"))


def test_large_and_small_splits_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    small = list(registry.load({"task": "digits"}).batches("train", Training(), seed=0, device="cpu"))
    monkeypatch.setattr("searchkit.tasks.arrays.CACHED_BYTES", 0)
    large = list(registry.load({"task": "digits"}).batches("train", Training(), seed=0, device="cpu"))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(small, large, strict=True))
