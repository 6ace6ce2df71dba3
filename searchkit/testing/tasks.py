"""The conformance suite of tasks: what the engine relies on of data, loss and metric.

`TASK_CHECKS` lists the checks by name. Each takes a task and raises CheckFailed with what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, Split
from searchkit.core.task import Task
from searchkit.core.training import Batch, Training
from searchkit.nn.graph import owners, segment_sum
from searchkit.onnx.predictor import Deployed, TorchPredictor
from searchkit.tasks import registry
from searchkit.testing.fixture import CheckFailed, require
from searchkit.train import make_optimizer

PLAIN = Training(batch_size=16)
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Linear(nn.Module):
    """The smallest network for any task: a linear map from the first input to the output.

    For graph tasks it sees the queried node, or the sum of the nodes. For sequence-to-sequence tasks it gives as many
    steps as the target so far has.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        features = math.prod(size for size in task.spec.inputs[0].shape if size is not None)
        self.counted = task.spec.inputs[0].counted_by is not None
        self.shared = not task.spec.inputs[0].batched
        self.shape = tuple(size for size in task.spec.outputs[0].shape if size is not None)
        self.writes = task.spec.writes
        self.linear = nn.Linear(features, math.prod(self.shape))

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the output, (B, …)."""
        # rest is (edges, n_nodes, n_edges) if there are many graphs, and (edges, query) if there is one.
        if self.counted:
            x = segment_sum(x, owners(rest[1], x.shape[0]), rest[1].shape[0])
        elif self.shared:
            x = x[rest[1]]
        x = x.flatten(1).float()
        x = F.pad(x, (0, self.linear.in_features - x.shape[1]))  # a batch may be cut to its longest row
        out: Tensor = self.linear(x).unflatten(1, self.shape)
        return out[:, : rest[-1].shape[1]] if self.writes else out


def linear(task: Task, seed: int = 0) -> nn.Module:
    """Return a linear network for a task with seeded weights."""
    torch.manual_seed(seed)
    return Linear(task)


def first_batch(task: Task, training: Training = PLAIN, seed: int = 0) -> Batch:
    """Return the first training batch of a task."""
    return next(iter(task.batches("train", training, seed=seed, device="cpu")))


def check_splits_are_apart(task: Task) -> None:
    """No split is empty, sizes match the arrays, no row is in two splits, and the summary counts duplicates in test."""
    for split in SPLITS:
        n = task.n_examples(split)
        require(n > 0, f"the {split} split is empty")
        found = batching.count(task.inputs, task.raw(split))
        require(found == n, f"the {split} split has {n} examples and its arrays have {found}")
    rows = task.splits()
    for one, other in combinations(SPLITS, 2):
        both = np.intersect1d(rows[one], rows[other])
        require(len(both) == 0, f"{len(both)} rows are in {one} and in {other}")
    known = set(batching.keys(task.inputs, task.raw("train")))
    shared = sum(example in known for example in batching.keys(task.inputs, task.raw("test")))
    counted = int(task.summary()["in_train_and_test"])  # of train and val together
    require(shared <= counted, f"{shared} examples of test are in train too, and the summary counts {counted}")


def check_splits_are_alike(task: Task) -> None:
    """Train and val have the same distribution of targets.

    Classes have the same shares, up to two examples; values have the same mean, up to half a standard deviation.
    Without targets the inputs are compared. For reconstruction val may have additional classes: anomalies.
    """
    train, val = (_targets(task, split) for split in ("train", "val"))
    if train.dtype.kind not in "iub" or train.ndim > 1:
        spread = train.reshape(len(train), -1).astype(np.float64)
        off = np.abs(val.reshape(len(val), -1).mean(0) - spread.mean(0)) / np.maximum(spread.std(0), 1e-9)
        # The median over the columns: a few may differ by chance.
        require(bool(np.median(off) < 0.5), f"the means of val and train differ by {np.median(off):.2g} deviations")
        return
    if task.spec.reconstructs:
        val = val[np.isin(val, train)]
    for label in np.unique(np.concatenate([train, val])):
        wanted, found = float(np.mean(train == label)), float(np.mean(val == label))
        require(
            abs(wanted - found) <= 2 / len(val) + 0.01,
            f"class {label} has a share of {wanted:.3f} in train and of {found:.3f} in val",
        )


def _targets(task: Task, split: Split) -> np.ndarray:
    """The targets, as `evaluate` gives them whatever the predictions; for environments the states."""
    if task.spec.acts:
        return task.raw(split)[task.inputs[0].name].astype(np.float64)

    def zeros(inputs: Arrays) -> Arrays:
        n = batching.count(task.inputs, inputs)
        assert n is not None
        shapes = {p.name: tuple(1 if size is None else size for size in p.shape) for p in task.answers}
        return {name: np.zeros((n, *shape), np.float32) for name, shape in shapes.items()}

    return task.evaluate(zeros, split).targets


def check_fingerprint_is_of_the_data(task: Task) -> None:
    """The fingerprint is the same after packing, and differs if one value differs."""
    config, arrays = task.pack()
    same = registry.unpack(config, arrays).fingerprint
    require(same == task.fingerprint, f"the fingerprint is {task.fingerprint}, and {same} after packing")
    largest = max(arrays, key=lambda name: arrays[name].size)
    changed = arrays[largest].copy()
    changed.flat[0] = 0 if changed.flat[0] else 1  # whatever the type holds
    other = registry.unpack(config, {**arrays, largest: changed}).fingerprint
    require(other != task.fingerprint, f"the fingerprint stays {other} although a value of {largest} changes")


def check_batches_follow_the_seed(task: Task) -> None:
    """The same seed gives the same batches, and another seed gives others."""

    def stream(seed: int) -> list[Batch]:
        return list(task.batches("train", PLAIN, seed=seed, device="cpu"))

    a, b, c = stream(1), stream(1), stream(2)

    def equal(x: Batch, y: Batch) -> bool:
        return all(torch.equal(one, other) for one, other in zip(x.inputs, y.inputs, strict=True))

    same = all(equal(x, y) and torch.equal(x.target, y.target) for x, y in zip(a, b, strict=True))
    require(same, "the same seed gives other batches")
    require(not all(equal(x, y) for x, y in zip(a, c, strict=False)), "another seed gives the same batches")


def check_loss_falls(task: Task) -> None:
    """The loss is a finite scalar that is lower after 20 steps on one batch."""
    model, batch = linear(task), first_batch(task)
    optimizer = make_optimizer(model, replace(PLAIN, lr=1e-2))
    losses = []
    for _ in range(20):
        loss = task.loss(model, batch)
        require(loss.ndim == 0 and bool(loss.isfinite()), f"the loss is {loss}, not a finite scalar")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    require(losses[-1] < losses[0], f"20 steps on one batch take the loss from {losses[0]:.4g} to {losses[-1]:.4g}")


def check_match_is_least_for_the_teacher(task: Task) -> None:
    """The distillation loss is 0 for the teacher itself and larger for another network."""
    teacher, batch = linear(task), first_batch(task)
    same = float(task.distillation_loss(teacher, teacher, batch, temperature=2.0).detach())
    other = float(task.distillation_loss(linear(task, seed=1), teacher, batch, temperature=2.0).detach())
    require(abs(same) < 1e-5, f"the distillation loss of the teacher itself is {same:.3g}, not 0")
    require(
        other > same, f"the distillation loss of another network is {other:.3g}, not above the teacher's {same:.3g}"
    )


def check_metric_is_its_scores(task: Task) -> None:
    """The goal's metric is `goal.value` of the per-example scores."""
    model = Deployed(task.preprocessor(), linear(task), task.postprocessor()).eval()
    evaluation = task.evaluate(TorchPredictor(model, task.inputs, task.answers), "val")
    n = task.n_examples("val")
    require(evaluation.scores.shape == (n,), f"there are scores of shape {evaluation.scores.shape} for {n} examples")
    stated, computed = evaluation.metrics[task.goal.metric], task.goal.value(evaluation.scores)
    require(
        math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9),
        f"{task.goal.metric} is {stated} and its scores give {computed}",
    )
    require(
        len(evaluation.decisions) == n and len(evaluation.targets) in ((0,) if task.spec.acts else (n,)),
        "there is not one decision and one target per example",
    )


def check_pack_round_trip(task: Task) -> None:
    """An unpacked task has the same spec, goal, data and batches."""
    config, arrays = task.pack()
    other = registry.unpack(config, arrays)
    require(other.spec == task.spec and other.goal == task.goal, "the unpacked task has another spec or goal")
    for split in SPLITS:
        for name, array in task.raw(split).items():
            require(
                np.array_equal(array, other.raw(split)[name]), f"the unpacked task has other {split} rows of {name}"
            )
    a, b = first_batch(task), first_batch(other)
    require(
        all(torch.equal(x, y) for x, y in zip((*a.inputs, a.target), (*b.inputs, b.target), strict=True)),
        "the unpacked task has other batches",
    )


def check_problem_keeps_its_own_promises(task: Task) -> None:
    """What the problem guarantees of its tasks, if it has a check of its own."""
    check = registry.problem_named(task.problem).check
    if check is not None:
        try:
            check(task)
        except AssertionError as error:
            raise CheckFailed(str(error)) from error


def check_test_is_not_trained_on(task: Task) -> None:
    """`batches` refuses the test split."""
    try:
        next(iter(task.batches("test", PLAIN, seed=0, device="cpu")))
    except ValueError:
        return
    raise CheckFailed("batches gives the test split, which only evaluate may read")


TASK_CHECKS: dict[str, Callable[[Task], None]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}
"""All checks of this module by name, in order."""
