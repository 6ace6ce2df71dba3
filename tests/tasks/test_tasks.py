"""Every task, and every way to bring one's own data: splits, preprocessors, batches, losses and metrics."""

import gzip
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk
from torch import nn

from searchkit.core.errors import BadInput, Infeasible, NotInstalled
from searchkit.core.goal import Goal
from searchkit.core.serialization import JSON
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.data.splits import quantile_strata, split_rows
from searchkit.data.summary import describe
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.metrics import macro_f1, macro_f1_labels, r2, roc_auc
from searchkit.tasks.modalities.image import crop, cutout, flip
from searchkit.tasks.modalities.series import _mnist1d, shift
from searchkit.testing.fixture import CheckFailed
from searchkit.testing.tasks import TASK_CHECKS

NUMBERS = ("tabular", "image", "series", "voxels")
OWN = ("anomaly", "denoising", "forecasting", "restyling")
EMBEDDED = [
    name
    for name in sorted(registry.names())
    if (made := registry.load({"task": name})).spec.modality in NUMBERS and made.summary()["kind"] not in OWN
]
"""The tasks of numbers in rows, split as the rows are. What holds of every task is in searchkit.testing.tasks; those of
text, of graphs, of anomalies, of noise, of series to be continued and of unpaired pictures have tests of their own."""
random = np.random.default_rng(0)


@pytest.fixture(params=EMBEDDED)
def task(request: pytest.FixtureRequest) -> ArrayTask:
    """A task of examples with their truth; what is played has its own tests."""
    try:
        found = registry.load({"task": request.param})
    except NotInstalled as error:
        pytest.skip(str(error))
    if not isinstance(found, ArrayTask):
        pytest.skip(f"{request.param} is played: its tests are in test_control.py")
    return found


def write_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def make_csv(path: Path, n: int = 120, *, header: bool = True) -> str:
    """Two numbers (one with gaps), a category and a class that depends on them."""
    rows = [] if not header else ["age,pay,job,good"]
    for k in range(n):
        job = ("cook", "smith", "clerk")[k % 3]
        pay = "" if k % 10 == 0 else f"{k % 7}.5"
        rows.append(f"{20 + k % 40},{pay},{job},{'yes' if (k % 3 == 0) else 'no'}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


# ── The registry ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_listing_the_tasks_imports_no_torch() -> None:
    code = (
        "import sys; from searchkit.tasks import registry; assert registry.names(); "
        "print({'torch', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_description_is_one_line() -> None:
    assert {"digits", "breast-cancer", "wine", "iris", "diabetes", "mnist1d", "digits-reconstruction"} <= set(EMBEDDED)
    assert all(text and "\n" not in text and len(text) < 110 for text in registry.names().values())


# ── Every embedded task ──────────────────────────────────────────────────────────────────────────────────────────────


def test_splits_are_disjoint_and_whole(task: ArrayTask) -> None:
    rows = task.data.rows
    everything = np.concatenate([rows["train"], rows["val"], rows["test"]])
    assert len(np.unique(everything)) == len(everything) == len(task.data.inputs[task.data.main])
    assert all(np.array_equal(chosen, np.sort(chosen)) for chosen in rows.values())
    assert len(rows["test"]) / len(everything) == pytest.approx(0.2, abs=0.01)
    assert len(rows["val"]) / (len(rows["val"]) + len(rows["train"])) == pytest.approx(0.15, abs=0.01)


def test_survives_packing_as_plain_data(task: ArrayTask) -> None:
    config, arrays = task.pack()
    other = registry.unpack(json.loads(json.dumps(config)), {name: values.copy() for name, values in arrays.items()})
    assert (other.spec, other.goal, other.inputs, other.answers) == (task.spec, task.goal, task.inputs, task.answers)
    assert other.labels == task.labels and other.pack()[0] == config
    assert other.fingerprint == task.fingerprint
    for (name, ours), theirs in zip(
        task.preprocessor().state_dict().items(), other.preprocessor().state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_loading_again_gives_the_same_and_another_seed_another_split(task: ArrayTask) -> None:
    again, other = registry.load({"task": task.name}), registry.load({"task": task.name, "split_seed": 1})
    assert again.fingerprint == task.fingerprint != other.fingerprint
    assert np.array_equal(again.data.rows["val"], task.data.rows["val"])
    assert not np.array_equal(other.data.rows["val"], task.data.rows["val"])


def test_preprocessor_gives_the_spec_and_standardized_values(task: ArrayTask) -> None:
    scaled = task.preprocessor()(torch.from_numpy(task.raw("train")[task.inputs[0].name]))
    assert scaled.dtype == torch.float32 and scaled.shape[1:] == task.spec.inputs[0].shape
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-3) and float(scaled.std()) == pytest.approx(1, abs=0.05)
    assert task.raw("val")[task.inputs[0].name].shape[1:] == task.inputs[0].shape
    assert task.raw("val")[task.inputs[0].name].dtype == task.inputs[0].dtype


def test_summary_is_plain_and_counts_every_row(task: ArrayTask) -> None:
    summary = json.loads(json.dumps(task.summary()))
    assert sum(summary["rows"].values()) == len(task.data.inputs[task.data.main])
    assert summary["fingerprint"] == task.fingerprint and summary["goal"] == task.goal.metric
    assert tuple(summary["classes"]) == task.labels


def test_a_batch_stream_is_its_seed(task: ArrayTask) -> None:
    kinds = {
        "image": ("crop", "flip", "cutout"),
        "series": ("jitter", "scale", "shift"),
        "voxels": ("flip", "shift"),
    }
    training = Training(batch_size=32, augment=kinds.get(task.spec.modality, ()), label_smoothing=0.1, mixup=0.3)

    def stream(seed: int) -> list[torch.Tensor]:
        batches = list(task.batches("train", training, seed=seed, device="cpu"))
        return [tensor for batch in batches for tensor in (*batch.inputs, batch.target)]

    first, again, other = stream(3), stream(3), stream(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in first)


def test_val_batches_are_all_of_val_in_order(task: ArrayTask) -> None:
    training = Training(batch_size=50, augment=("crop",), label_smoothing=0.2, mixup=0.5)
    batches = list(task.batches("val", training, seed=9, device="cpu"))
    x = torch.cat([batch.inputs[0] for batch in batches])
    assert torch.equal(x, task.preprocessor()(torch.from_numpy(task.raw("val")[task.inputs[0].name])))
    if task.labels:
        target = torch.cat([batch.target for batch in batches])
        assert set(target.unique().tolist()) == {0.0, 1.0}


def test_match_is_zero_for_equals_and_has_a_gradient(task: ArrayTask) -> None:
    torch.manual_seed(0)
    batch = next(task.batches("train", Training(), seed=0, device="cpu"))
    teacher, student = small_net(task), small_net(task)
    assert task.distillation_loss(teacher, teacher, batch, temperature=3.0).item() == pytest.approx(0, abs=1e-6)
    apart = task.distillation_loss(student, teacher, batch, temperature=3.0)
    apart.backward()
    assert apart.item() > 1e-4
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())


def small_net(task: ArrayTask, width: int = 64) -> nn.Sequential:
    def size(shape: tuple[int | None, ...]) -> int:
        return int(np.prod([n or 1 for n in shape]))

    taken, given_ = task.spec.inputs[0].shape, task.spec.outputs[0].shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size(taken), width), nn.ReLU(), nn.Linear(width, size(given_)), nn.Unflatten(1, given_)
    )


REACHED = {
    "digits": 0.94,
    "breast-cancer": 0.93,
    "wine": 0.90,
    "iris": 0.85,
    "diabetes": 70.0,
    "mnist1d": 0.50,
    "digits-reconstruction": 1.0,
    "solids": 0.4,
    "tones": 0.85,
    "digits-generation": 0.5,
}
"""What a small perceptron reaches on val in a few epochs: accuracy, or an error in the unit of the data."""


def test_a_small_perceptron_learns(task: ArrayTask) -> None:
    torch.manual_seed(0)
    net = small_net(task)
    training = Training(epochs=20, batch_size=32, lr=5e-3)
    task.fit(net, FitPlan(training, seed=0, until=20), TrainState())
    deployed = Deployed(task.preprocessor(), net, task.postprocessor()).eval()
    evaluation = task.evaluate(TorchPredictor(deployed, task.inputs, task.answers), "val")
    value = evaluation.metrics[task.goal.metric]
    assert value == task.goal.value(evaluation.scores)
    assert len(evaluation.scores) == len(evaluation.decisions) == len(evaluation.targets) == task.n_examples("val")
    assert not task.goal.better(REACHED[task.name], value), f"{task.name} reached {value}"


def test_test_rows_reach_nothing_but_evaluate(task: ArrayTask) -> None:
    """Poison: with every test value changed, the preprocessor, the answers, and all of train and val stay as they
    were."""
    config, arrays = task.pack()
    poisoned = {name: values.copy() for name, values in arrays.items()}
    test = arrays["rows.test"]
    x = poisoned[f"input.{task.data.main}"]
    x[test] = np.nan if x.dtype.kind == "f" else 255
    if "target" in poisoned:
        poisoned["target"][test] = np.nan if poisoned["target"].dtype.kind == "f" else 0
    other = registry.unpack(config, poisoned)
    for ours, theirs in ((task.preprocessor(), other.preprocessor()), (task.postprocessor(), other.postprocessor())):
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert other.spec == task.spec
    for split in ("train", "val"):
        ours = list(task.batches(split, Training(), seed=5, device="cpu"))
        theirs = list(other.batches(split, Training(), seed=5, device="cpu"))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.target, b.target)
    assert other.fingerprint != task.fingerprint
    with pytest.raises(ValueError, match="test is read by evaluate"):
        task.batches("test", Training(), seed=0, device="cpu")


# ── Splits and metrics ───────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 10))
def test_stratified_splits_keep_shares(sizes: list[int], seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    rows = split_rows(len(strata), strata, given={}, seed=seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(strata)))
    for k, size in enumerate(sizes):
        counts = {split: int((strata[chosen] == k).sum()) for split, chosen in rows.items()}
        assert counts["train"] >= 1
        assert abs(counts["test"] - 0.2 * size) < 1
        assert abs(counts["val"] - 0.15 * (size - counts["test"])) < 1


def test_a_given_test_split_is_kept() -> None:
    given_rows = np.array([7, 3, 5])
    rows = split_rows(40, None, given={"test": given_rows}, seed=0)
    assert rows["test"].tolist() == [3, 5, 7] and len(rows["val"]) == 6 and len(rows["train"]) == 31


def test_regression_splits_hold_every_decile() -> None:
    values = random.exponential(size=500)
    rows = split_rows(500, quantile_strata(values), given={}, seed=0)
    bins = quantile_strata(values)
    assert set(bins[rows["test"]]) == set(bins[rows["val"]]) == set(range(10))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 1000))
def test_metrics_equal_scikit_learns(n_classes: int, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, decided = generator.integers(0, n_classes, (2, n))
    assert macro_f1(truth, decided) == pytest.approx(sk.f1_score(truth, decided, average="macro", zero_division=0))
    answers = generator.integers(0, 8, (n, n_classes)) / 8  # with ties
    areas = [sk.roc_auc_score(truth == k, answers[:, k]) for k in range(n_classes) if 0 < (truth == k).sum() < n]
    assert roc_auc(truth, answers) == pytest.approx(np.mean(areas) if areas else 0.5)
    many, decided_many = generator.integers(0, 2, (2, n, n_classes))
    expected = sk.f1_score(many, decided_many, average="macro", zero_division=0)
    assert macro_f1_labels(many, decided_many) == pytest.approx(expected)
    values, guesses = generator.normal(size=(2, n + 1, 3))
    assert r2(values, guesses) == pytest.approx(sk.r2_score(values, guesses))


def test_regression_metrics_are_in_the_unit_of_the_target() -> None:
    task = registry.load({"task": "diabetes"})
    truth = task.data.target_of("test")
    guesses = truth + random.normal(size=truth.shape).astype(np.float32) * 20
    evaluation = task.evaluate(lambda inputs: {"values": guesses}, "test")
    assert evaluation.metrics["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guesses), rel=1e-6)
    assert evaluation.metrics["mae"] == pytest.approx(sk.mean_absolute_error(truth, guesses), rel=1e-6)
    assert evaluation.metrics["r2"] == pytest.approx(sk.r2_score(truth, guesses), rel=1e-6)
    assert task.goal == Goal("rmse", "minimize", root=True)
    perfect = task.postprocessor()(
        torch.from_numpy(np.concatenate([b.target for b in task.batches("val", Training(), seed=0, device="cpu")]))
    )
    assert np.allclose(perfect.numpy(), task.data.target_of("val"), rtol=1e-5)


def test_an_answer_that_is_no_number_is_wrong() -> None:
    task = registry.load({"task": "iris"})
    evaluation = task.evaluate(lambda x: {"probabilities": np.full((len(x["features"]), 3), np.nan, np.float32)}, "val")
    assert evaluation.metrics["accuracy"] == 0 and set(evaluation.decisions) == {-1}


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Constant(nn.Module):
    """Gives `output` whatever it is given, and a penalty of 6 nats."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.output

    def aux_loss(self) -> torch.Tensor:
        return torch.tensor(6.0)


def test_the_divergence_of_a_vae_weighs_as_in_the_elbo_of_the_best_variance() -> None:
    task = registry.load({"task": "digits-reconstruction"})
    batch = next(task.batches("train", Training(batch_size=16), seed=0, device="cpu"))
    net = Constant(torch.zeros(16, 1, 8, 8))
    mse = float((batch.target**2).mean())
    loss = task.loss(net, batch)
    assert loss.item() == pytest.approx(mse + 2 * mse / 64 * 6, rel=1e-5)
    loss.backward()
    scaled = net.output.grad * 64 / (2 * mse)  # the gradient of D/2 log MSE, in nats an example
    output = torch.zeros(16, 1, 8, 8, requires_grad=True)
    (32 * ((output - batch.target) ** 2).mean().log()).backward()
    assert torch.allclose(scaled, output.grad, rtol=1e-4, atol=1e-7)


def test_a_penalty_of_another_network_is_added_as_it_is() -> None:
    task = registry.load({"task": "iris"})
    batch = next(task.batches("train", Training(batch_size=16), seed=0, device="cpu"))
    loss = task.loss(Constant(torch.zeros(16, 3)), batch)
    assert loss.item() == pytest.approx(np.log(3) + 6, rel=1e-5)


def test_losses_are_torchs() -> None:
    binary = registry.load({"task": "breast-cancer"})
    assert binary.spec.outputs[0].shape == (1,) and binary.spec.n_classes == 2 and len(binary.labels) == 2
    batch = next(binary.batches("train", Training(batch_size=8), seed=0, device="cpu"))
    net = nn.Linear(30, 1)
    expected = nn.functional.binary_cross_entropy_with_logits(net(batch.inputs[0]), batch.target)
    assert torch.equal(binary.loss(net, batch), expected)
    probabilities = binary.postprocessor()(torch.tensor([[2.0], [-1.0]]))
    assert torch.allclose(probabilities.sum(1), torch.ones(2)) and probabilities[0, 1] > 0.5 > probabilities[1, 1]


def test_smoothing_and_mixup_keep_targets_distributions() -> None:
    task = registry.load({"task": "wine"})
    plain = next(task.batches("train", Training(label_smoothing=0.3), seed=0, device="cpu"))
    assert plain.target.max() == pytest.approx(0.8) and plain.target.min() == pytest.approx(0.1)
    mixed = next(task.batches("train", Training(mixup=1.0), seed=0, device="cpu"))
    assert torch.allclose(mixed.target.sum(1), torch.ones(len(mixed.target)))
    assert ((mixed.target > 0.01) & (mixed.target < 0.99)).any()


# ── Augmentation and batches ─────────────────────────────────────────────────────────────────────────────────────────


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


def test_an_unknown_augmentation_names_those_that_exist() -> None:
    task = registry.load({"task": "mnist1d"})
    with pytest.raises(BadInput, match="No augmentation 'crop' for series data; allowed: jitter, scale, shift."):
        next(task.batches("train", Training(augment=("crop",)), seed=0, device="cpu"))


def test_large_and_small_splits_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    small = list(registry.load({"task": "digits"}).batches("train", Training(), seed=0, device="cpu"))
    monkeypatch.setattr("searchkit.tasks.arrays.CACHED_BYTES", 0)
    large = list(registry.load({"task": "digits"}).batches("train", Training(), seed=0, device="cpu"))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(small, large, strict=True))


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_is_imputed_flagged_scaled_and_encoded(tmp_path: Path) -> None:
    task = registry.load({"data": make_csv(tmp_path / "people.csv"), "target": "good"})
    assert [(c.name, c.kind, c.categories) for c in task.columns] == [
        ("age", "numeric", ()),
        ("pay", "numeric", ()),
        ("job", "categorical", ("clerk", "cook", "smith")),
    ]
    assert task.labels == ("no", "yes") and task.spec.inputs[0].shape == (2 + 1 + 3,)
    summary = task.summary()
    assert summary["missing_by_column"] == {"pay": 12} and summary["kind"] == "classification"
    train = task.raw("train")["features"]
    scaled = task.preprocessor()(torch.from_numpy(train)).numpy()
    assert np.array_equal(scaled[:, 2], np.isnan(train[:, 1]))
    assert np.array_equal(scaled[:, 3:], np.eye(3)[train[:, 2].astype(int)])
    pay = np.where(np.isnan(train[:, 1]), np.nanmedian(train[:, 1]), train[:, 1])
    assert np.allclose(scaled[:, 1], (pay - pay.mean()) / pay.std(), atol=1e-5)
    strange = task.preprocessor()(torch.tensor([[30.0, 2.5, -1.0], [30.0, 2.5, float("nan")]]))
    assert not strange[:, 3:].any()


@pytest.mark.parametrize("target", ["c3", "3", "-1"])
def test_a_table_without_a_header(tmp_path: Path, target: str) -> None:
    task = registry.load({"data": make_csv(tmp_path / "people.csv", header=False), "target": target})
    assert [column.name for column in task.columns] == ["c0", "c1", "c2"] and task.data.targets == ("c3",)
    assert sum(task.summary()["rows"].values()) == 120


def test_a_header_of_words_over_words(tmp_path: Path) -> None:
    lines = ["color,taste"] + [f"{'red' if k % 2 else 'blue'},{'sweet' if k % 4 else 'sour'}" for k in range(40)]
    (tmp_path / "fruit.csv").write_text("\n".join(lines))
    task = registry.load({"data": str(tmp_path / "fruit.csv"), "target": "taste"})
    assert task.labels == ("sour", "sweet") and sum(task.summary()["rows"].values()) == 40
    (tmp_path / "bare.csv").write_text("\n".join(lines[1:]))
    assert registry.load({"data": str(tmp_path / "bare.csv"), "target": "-1"}).data.targets == ("c1",)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    text = Path(make_csv(tmp_path / "people.csv")).read_text().replace(",", delimiter)
    (tmp_path / "people.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert [c.name for c in registry.load({"data": str(tmp_path / "people.csv"), "target": "good"}).columns][0] == "age"


def test_a_second_table_is_the_test_split(tmp_path: Path) -> None:
    train, test = make_csv(tmp_path / "a.csv"), make_csv(tmp_path / "b.csv", 30)
    lines = Path(test).read_text().replace("smith", "pilot").replace("yes", "yes.").replace("no", "no.")
    Path(test).write_text(lines)
    task = registry.load({"data": train, "test_data": test, "target": "good"})
    assert task.data.rows["test"].tolist() == list(range(120, 150)) and task.labels == ("no", "yes")
    assert set(task.raw("test")["features"][:, 2]) == {0.0, 1.0, -1.0}  # pilot stands in no training row
    summary = task.summary()
    assert summary["in_train_and_test"] == 20 and summary["duplicates"] == 0


def test_the_check_of_splits_knows_honest_overlap_from_rows_in_two_splits(tmp_path: Path) -> None:
    x = random.normal(size=(60, 4)).astype(np.float32)
    y = np.arange(60) % 2
    path = write_npz(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    honest = registry.load({"data": path})
    assert honest.summary()["in_train_and_test"] == 20
    TASK_CHECKS["splits_are_apart"](honest)
    rows = honest.data.rows
    leaky = ArrayTask(replace(honest.data, rows={**rows, "train": np.union1d(rows["train"], rows["test"][:3])}))
    with pytest.raises(CheckFailed, match="3 rows are in train and in test"):
        TASK_CHECKS["splits_are_apart"](leaky)

    class Silent(ArrayTask):
        def summary(self) -> dict[str, JSON]:
            return {**super().summary(), "in_train_and_test": 0}

    with pytest.raises(CheckFailed, match="are in train too, and the summary counts 0"):
        TASK_CHECKS["splits_are_apart"](Silent(honest.data))


def test_the_summary_is_told_in_words(tmp_path: Path) -> None:
    table = describe(registry.load({"data": make_csv(tmp_path / "people.csv"), "target": "good"}).summary())
    assert table["rows"] == "120: train 82, val 14, test 24 (split seed 0)"
    assert table["columns"] == "2 numeric: age, pay; 1 categorical: job (3)"
    assert re.fullmatch(r"one of 2 classes: no \(\d+\), yes \(\d+\)", table["predicts"])
    assert table["missing"] == "12 values: pay (12)" and list(table)[-1] == "fingerprint"
    assert table["overlap"] == "0 rows of test also in train or val"
    assert describe(registry.load({"task": "diabetes"}).summary())["predicts"] == "a quantity: progression"
    pictures = describe(registry.load({"task": "digits-reconstruction"}).summary())
    assert pictures["predicts"] == "the input itself" and "columns" not in pictures
    assert all("_" not in what and words for what, words in pictures.items())


def test_duplicates_are_counted(tmp_path: Path) -> None:
    x = random.normal(size=(50, 4)).astype(np.float32)
    x[1] = x[0]
    path = write_npz(
        tmp_path / "d.npz", x_train=x, y_train=np.arange(50) % 2, x_test=x[:5] * 1, y_test=np.arange(5) % 2
    )
    summary = registry.load({"data": path}).summary()
    in_one = 1 if summary["duplicates"] == 2 else 0  # rows 0 and 1 are in one of train and val, or in both
    assert summary["duplicates"] == 1 + in_one and summary["in_train_and_test"] == 5


def test_quantities_and_classes_among_whole_numbers(tmp_path: Path) -> None:
    lines = ["x,few,many"] + [f"{k * 0.5},{k % 4},{(k * 7) % 50}" for k in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert registry.load({"data": str(tmp_path / "t.csv"), "target": "few"}).spec.n_classes == 4
    many = registry.load({"data": str(tmp_path / "t.csv"), "target": "many"})
    assert many.goal.metric == "rmse" and many.data.targets == ("many",)
    assert registry.load({"data": str(tmp_path / "t.csv"), "target": "few", "kind": "regression"}).goal.metric == "rmse"
    rebuilt = registry.load({"data": str(tmp_path / "t.csv"), "kind": "reconstruction"})
    assert rebuilt.spec.reconstructs and rebuilt.answers[0].shape == (3,)


def test_parquet_equals_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    csv = pytest.importorskip("pyarrow.csv")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = make_csv(tmp_path / "people.csv")
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    assert isinstance(table, pyarrow.Table)
    parquet.write_table(table, tmp_path / "people.parquet")
    ours = registry.load({"data": path, "target": "good"})
    theirs = registry.load({"data": str(tmp_path / "people.parquet"), "target": "good"})
    assert ours.fingerprint == theirs.fingerprint and ours.columns == theirs.columns


# ── Arrays, idx and images ───────────────────────────────────────────────────────────────────────────────────────────

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


# ── The preprocessor inside the exported graph


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


def test_the_restored_picture_is_the_raw_one(tmp_path: Path) -> None:
    task = export_cases(tmp_path)["picture"]
    raw = torch.from_numpy(task.raw("test")["image"])
    assert torch.allclose(task.postprocessor()(task.preprocessor()(raw)), raw.float(), atol=1e-3)


# ── Real data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fashion_mnist(stored_data: Callable[[str], Path]) -> None:
    task = registry.load({"data": str(stored_data("fashion-mnist"))})
    assert task.summary()["rows"] == {"train": 51_000, "val": 9_000, "test": 10_000}
    assert len(task.labels) == 10 and task.inputs[0].dtype == "uint8"
    assert set(np.bincount(task.data.target_of("val"))) == {900}


def test_adult(stored_data: Callable[[str], Path]) -> None:
    folder = stored_data("adult")
    task = registry.load({"data": f"{folder}/adult-train.csv", "test_data": f"{folder}/adult-test.csv", "target": "-1"})
    assert sum(task.summary()["rows"].values()) == 32_561 + 16_281 and task.n_examples("test") == 16_281
    assert task.labels == ("<=50K", ">50K") and [c.kind for c in task.columns].count("numeric") == 6
    assert set(task.summary()["missing_by_column"]) == {"c1", "c6", "c13"}


def test_a_data_set_is_frozen_by_its_hash() -> None:
    """Golden: a change of these breaks every stored run that names the task."""
    fingerprints = {name: registry.load({"task": name}).fingerprint for name in ("digits", "iris")}
    assert fingerprints == {"digits": "f0fc6e1a4909607d", "iris": "7d7f758ffa40c63a"}


def test_mnist1d_is_the_published_one_and_leaves_the_global_generators_alone() -> None:
    _mnist1d.cache_clear()
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    task = registry.load({"task": "mnist1d"})
    assert np.array_equal(np.random.random(3), expected)
    assert task.n_examples("train") + task.n_examples("val") == 4000 and task.n_examples("test") == 1000
    first = task.data.inputs["series"][:2, 0, :3]
    published = [[-0.33200567, -0.47191037, -0.77869708], [1.96548088, 2.30021254, 2.21339278]]
    np.testing.assert_allclose(first, published, rtol=1e-5)
