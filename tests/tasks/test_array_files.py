"""Archives of arrays, idx files and folders of images: what they are taken for, and their batches."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from small_data import small_net, write_npz

from searchkit.core.errors import Infeasible
from searchkit.core.training import Training
from searchkit.tasks import registry

random = np.random.default_rng(0)

ODD = np.arange(40) % 2
SHAPES = {
    "features": ((40, 6), "f4", {}, "tabular", (6,)),
    "gray": ((40, 9, 7), "u1", {}, "image", (1, 9, 7)),
    "series": ((40, 3, 20), "f8", {}, "series", (3, 20)),
    "whole series": ((40, 3, 20), "i2", {}, "series", (3, 20)),
    "channels first": ((40, 3, 8, 9), "u1", {}, "image", (3, 8, 9)),
    "channels last": ((40, 8, 9, 4), "f4", {}, "image", (4, 8, 9)),
    "floats as picture": ((40, 9, 7), "f4", {"modality": "image"}, "image", (1, 9, 7)),
    "flat series": ((40, 20), "f4", {"modality": "series"}, "series", (1, 20)),
    "tokens": ((40, 20), "i8", {"modality": "tokens"}, "tokens", (20,)),
    "volumes": ((40, 5, 6, 7), "u1", {"modality": "voxels"}, "voxels", (1, 5, 6, 7)),
    "volumes, channels first": ((40, 3, 5, 6, 7), "f4", {}, "voxels", (3, 5, 6, 7)),
    "volumes, channels last": ((40, 5, 6, 7, 1), "u1", {}, "voxels", (1, 5, 6, 7)),
    "bits of cubes": ((40, 64), "u1", {"modality": "voxels"}, "voxels", (1, 8, 8, 8)),
}


@pytest.mark.parametrize(("shape", "dtype", "options", "modality", "taken"), SHAPES.values(), ids=SHAPES)
def test_modality_by_shape(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, options: dict[str, str], modality: str, taken: tuple[int, ...]
) -> None:
    x = random.integers(0, 100, size=shape).astype(dtype)
    task = registry.load({"data": write_npz(tmp_path / "a.npz", x=x, y=ODD), **options})
    assert task.spec.modality == modality and task.spec.inputs[0].shape == taken
    assert task.spec.vocabulary == (x.max() + 1 if modality == "tokens" else 0)
    raw = task.raw("train")[task.inputs[0].name]
    assert raw.dtype == (x.dtype if dtype in ("u1", "i2", "i8") else np.float32) == np.dtype(task.inputs[0].dtype)
    (batch,) = list(task.batches("val", Training(), seed=0, device="cpu"))
    assert batch.inputs[0].shape[1:] == taken


def test_kind_by_target(tmp_path: Path) -> None:
    x = random.normal(size=(60, 5))
    labels = (random.random((60, 3)) < 0.5).astype(int)
    labels[0] = 1
    cases = {
        "regression": random.normal(size=60),
        "multilabel": labels,
        "classification": np.array(["a", "b", "c"])[np.arange(60) % 3],
    }
    for kind, y in cases.items():
        task = registry.load({"data": write_npz(tmp_path / f"{kind}.npz", x=x, y=y)})
        assert task.data.kind == kind, kind
    two = registry.load({"data": write_npz(tmp_path / "two.npz", x=x, y=random.normal(size=(60, 2)))})
    assert two.spec.outputs[0].shape == (2,) and two.goal.metric == "rmse"
    alone = registry.load({"data": write_npz(tmp_path / "alone.npz", x=x)})
    assert alone.spec.reconstructs
    hot = np.eye(3, dtype=int)[np.arange(60) % 3]
    assert (
        registry.load({"data": write_npz(tmp_path / "hot.npz", x=x, y=hot), "kind": "classification"}).spec.n_classes
        == 3
    )


def test_many_labels_are_scored_by_label(tmp_path: Path) -> None:
    x, y = random.normal(size=(80, 5)), (random.random((80, 3)) < 0.5).astype(np.uint8)
    task = registry.load({"data": write_npz(tmp_path / "m.npz", x=x, y=y), "kind": "multilabel"})
    truth = task.data.target_of("test").astype(int)
    answers = random.random(truth.shape).astype(np.float32)
    evaluation = task.evaluate(lambda inputs: {"probabilities": answers}, "test")
    decided = (answers > 0.5).astype(int)
    assert evaluation.metrics["accuracy"] == pytest.approx((decided == truth).mean())
    assert evaluation.metrics["accuracy"] == task.goal.value(evaluation.scores)
    assert evaluation.metrics["subset_accuracy"] == pytest.approx(sk.accuracy_score(truth, decided))
    net = small_net(task)
    batch = next(task.batches("train", Training(label_smoothing=0.1), seed=0, device="cpu"))
    task.loss(net, batch).backward()
    assert batch.target.unique().tolist() == pytest.approx([0.05, 0.95])


def test_a_batch_holds_rows_of_like_lengths(tmp_path: Path) -> None:
    """Every row of train once, in another order each epoch; the batches are in no order, and hold little padding."""
    lengths = np.random.default_rng(0).integers(1, 101, 800)
    x = np.random.default_rng(1).normal(size=(800, 1, 100))
    task = registry.load({"data": write_npz(tmp_path / "l.npz", x=x, y=np.arange(800) % 2, lengths=lengths)})
    training = Training(batch_size=32)

    def epoch(seed: int) -> list[np.ndarray]:
        return [batch.inputs[1].numpy() for batch in task.batches("train", training, seed=seed, device="cpu")]

    found = epoch(0)
    train = lengths[task.splits()["train"]]
    assert sorted(np.concatenate(found)) == sorted(train)
    assert all(np.array_equal(a, b) for a, b in zip(found, epoch(0), strict=True))
    assert not all(np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(found, epoch(1), strict=True))
    longest = [part.max() for part in found]
    assert longest != sorted(longest)
    assert sum(part.max() * len(part) for part in found) < 1.15 * train.sum() < 1.15 * 0.6 * 100 * len(train)


def test_lengths_travel_and_padding_counts_for_nothing(tmp_path: Path) -> None:
    x, lengths = random.normal(3, 2, size=(60, 2, 15)), random.integers(1, 16, 60)
    padding = np.arange(15) >= lengths[:, None]
    sources = []
    for name, filler in (("zero", 0.0), ("huge", 1e6)):
        filled = np.where(padding[:, None], filler, x)
        sources.append(write_npz(tmp_path / f"{name}.npz", x=filled, y=np.arange(60) % 2, lengths=lengths))
    zero, huge = (registry.load({"data": source}) for source in sources)
    assert zero.spec.varies_in_length and [port.name for port in zero.inputs] == ["series", "lengths"]
    ours, theirs = (next(task.batches("train", Training(), seed=0, device="cpu")) for task in (zero, huge))
    assert torch.allclose(ours.inputs[0], theirs.inputs[0], atol=1e-5) and torch.equal(ours.inputs[1], theirs.inputs[1])
    steps = torch.arange(15) >= ours.inputs[1][:, None]
    assert not ours.inputs[0].masked_select(steps[:, None].expand_as(ours.inputs[0])).any()
    mixed = next(zero.batches("train", Training(mixup=1.0), seed=0, device="cpu"))
    assert (mixed.inputs[1] >= ours.inputs[1]).all()


def test_mixing_tokens_is_infeasible(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "t.npz", x=random.integers(0, 9, (40, 12)), y=ODD, lengths=random.integers(1, 13, 40))
    task = registry.load({"data": path, "modality": "tokens"})
    assert task.spec.vocabulary == 9 and task.spec.varies_in_length
    with pytest.raises(Infeasible, match="tokens cannot be mixed"):
        next(task.batches("train", Training(mixup=0.2), seed=0, device="cpu"))


def test_given_splits_of_an_archive_are_kept(tmp_path: Path) -> None:
    parts = {"train": 50, "val": 11, "test": 13}
    arrays = {f"x_{split}": random.normal(size=(n, 4)) for split, n in parts.items()}
    arrays |= {f"y_{split}": np.arange(n) % 3 for split, n in parts.items()}
    task = registry.load({"data": write_npz(tmp_path / "g.npz", **arrays)})
    assert task.summary()["rows"] == parts
    assert np.array_equal(task.raw("test")["features"], arrays["x_test"].astype(np.float32))
    assert np.array_equal(task.data.target_of("val"), arrays["y_val"])


def write_idx(path: Path, values: np.ndarray, code: int = 8) -> None:
    blob = bytes((0, 0, code, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(blob) if path.suffix == ".gz" else blob)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files(tmp_path: Path, suffix: str) -> None:
    x = random.integers(0, 256, (50, 6, 5)).astype(np.uint8)
    y = (np.arange(50) % 5).astype(np.uint8)
    for split, part in (("train", slice(0, 40)), ("t10k", slice(40, 50))):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte{suffix}", x[part])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte{suffix}", y[part])
    task = registry.load({"data": str(tmp_path)})
    assert np.array_equal(task.raw("test")["image"], x[40:]) and task.labels == ("0", "1", "2", "3", "4")
    assert task.inputs[0].dtype == "uint8" and task.spec.inputs[0].shape == (1, 6, 5)


@pytest.mark.parametrize(
    ("ending", "mode", "shape"), [("png", "L", (7, 9)), ("bmp", "RGB", (7, 9, 3)), ("jpg", "RGB", (7, 9, 3))]
)
def test_a_folder_of_images(tmp_path: Path, ending: str, mode: str, shape: tuple[int, ...]) -> None:
    for split, n in (("train", 12), ("test", 3)):
        for name, base in (("cat", 40), ("dog", 200)):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(n):
                Image.new(mode, (9, 7), (base + k,) * 3 if mode == "RGB" else base + k).save(
                    tmp_path / split / name / f"{k:02}.{ending}"
                )
    task = registry.load({"data": str(tmp_path)})
    assert task.labels == ("cat", "dog") and task.inputs[0].shape == shape and task.inputs[0].dtype == "uint8"
    assert task.summary()["rows"]["test"] == 6 and task.spec.inputs[0].shape[1:] == (7, 9)
    assert (task.raw("test")["image"].reshape(6, -1)[:, 0] > 100).tolist() == [False] * 3 + [True] * 3
