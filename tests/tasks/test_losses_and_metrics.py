"""Splits that keep shares, metrics that equal scikit-learn's, losses that equal torch's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import nn

from searchkit.core.goal import Goal
from searchkit.core.training import Training
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.splits import quantile_strata, split_rows
from searchkit.tasks import registry
from searchkit.tasks.metrics import macro_f1, macro_f1_labels, r2, roc_auc

random = np.random.default_rng(0)


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
    bins = quantile_strata(values, given={})
    rows = split_rows(500, bins, given={}, seed=0)
    assert set(bins[rows["test"]]) == set(bins[rows["val"]]) == set(range(10))


@pytest.mark.parametrize("n", range(MIN_ROWS, 32))
@pytest.mark.parametrize("n_given", [0, 5])
@pytest.mark.parametrize("ties", [1, 2, 4])
def test_a_small_regression_has_rows_in_every_split(n: int, n_given: int, ties: int) -> None:
    """Also if the rows that are left beside a test split that is given are from a few of the values."""
    values = (np.arange(n) // ties).astype(float)
    given = {"test": np.arange(n)[:: n // n_given][:n_given]} if n_given else {}
    rows = split_rows(n, quantile_strata(values, given=given), given=given, seed=0)
    assert len(rows["val"]) > 0 and len(rows["test"]) > 0 and len(rows["train"]) >= (n - n_given) / 2
    assert sorted(np.concatenate(list(rows.values()))) == list(range(n))


def test_a_class_of_one_row_stays_in_train() -> None:
    rows = split_rows(12, np.array([0] * 11 + [1]), given={}, seed=0)
    assert 11 in rows["train"] and len(rows["val"]) > 0 and len(rows["test"]) > 0


def test_a_regression_of_as_many_rows_as_are_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=random.normal(size=(MIN_ROWS, 3)), y=np.arange(MIN_ROWS) + 0.5)
    task = registry.load({"data": str(tmp_path / "a.npz"), "kind": "regression"})
    assert {split: task.n_examples(split) for split in ("train", "val", "test")} == {"train": 7, "val": 1, "test": 2}


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
