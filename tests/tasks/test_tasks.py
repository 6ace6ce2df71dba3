"""What holds of every task of numbers in rows: splits, packing, batches, and what a small network learns."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_data import small_net

from searchkit.core.errors import NotInstalled
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.onnx.predictor import Deployed, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask

NUMBERS = ("tabular", "image", "series", "voxels")
OWN = ("anomaly", "denoising", "forecasting", "restyling")
EMBEDDED = [
    name
    for name in sorted(registry.names())
    if (made := registry.load({"task": name})).spec.modality in NUMBERS and made.summary()["kind"] not in OWN
]
"""The tasks of numbers in rows, split as the rows are. What holds of every task is in searchkit.testing.tasks; those of
text, of graphs, of anomalies, of noise, of series to be continued and of unpaired pictures have tests of their own."""


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
