"""Restyling: the way back in the state, what two sets may be brought, what is told of them, and the sizes and cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.space_file import load_space
from searchkit.core.state import decode_state, encode_state
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.evaluation import evidence
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx.predictor import Deployed, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.gan import perception
from searchkit.tasks.gan.adversary import OBJECTIVES
from searchkit.tasks.gan.image_translation import OF_SECOND, ImageTranslationTask, bold, by_set, kept_distances

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "cyclegan.py")
SMALL = SPACE.arch(widths=(8, 12), blocks=1)
LEARNED = 6
"""Epochs after which a network without halvings answers better than its input does: 8 take it from 0.485 to 0.067."""


@pytest.fixture(scope="module")
def digits() -> ImageTranslationTask:
    task = registry.load({"task": "digits-restyling"})
    assert isinstance(task, ImageTranslationTask)
    return task


def network(task: ImageTranslationTask, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net: nn.Module = SPACE.build(SMALL, task.spec)
    return net


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("objective", ["least-squares", "wasserstein"])
def test_a_training_goes_on_bit_for_bit_with_its_way_back(
    digits: ImageTranslationTask, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchkit.tasks.gan.adversary.WARM_STEPS", 2)
    monkeypatch.setattr("searchkit.tasks.gan.cycle.UNITS", 4)
    training = replace(SPACE.training.default, objective=objective, epochs=3, batch_size=256)
    plan = FitPlan(training, seed=4, until=3)
    straight = network(digits)
    expected = digits.fit(straight, plan, TrainState())
    state = TrainState()
    for until in (1, 3):
        net = network(digits, seed=until if state.epoch else 0)
        state = digits.fit(net, replace(plan, until=until), decode_state(encode_state(state)))
    for part in ("critic.weights.", "back_critic.optimizer.", "back.weights.", "back.optimizer."):
        assert any(name.startswith(part) for name in expected.tensors)
    assert expected.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(v, state.tensors[name]) for name, v in expected.tensors.items())
    for a, b in zip(straight.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_to_answer_as_the_second_set_looks_and_keeps_what_it_was_given(digits: ImageTranslationTask) -> None:
    torch.manual_seed(0)
    net = SPACE.build(SPACE.arch(widths=(16,), blocks=1), digits.spec)
    training = replace(SPACE.training.default, epochs=LEARNED)
    digits.fit(net, FitPlan(training, seed=0, until=LEARNED), TrainState())
    deployed = Deployed(digits.preprocessor(), net, digits.postprocessor()).eval()
    learned = digits.evaluate(TorchPredictor(deployed, digits.inputs, digits.answers), "val").metrics
    unchanged = digits.evaluate(digits.baselines()["unchanged"], "val").metrics
    assert learned["frechet"] < 0.5 * unchanged["frechet"]
    assert learned["same_class"] > 0.5 > 0.05 > unchanged["same_class"]  # chance is 0.1
    assert learned["kept_distances"] > 0.6


def test_the_way_back_takes_its_step_and_the_network_none(digits: ImageTranslationTask) -> None:
    net = network(digits).train()
    batch = next(iter(digits.batches("train", Training(batch_size=8), seed=0, device="cpu")))
    for objective in OBJECTIVES:
        plan = FitPlan(Training(objective=objective, batch_size=8), seed=0, until=1)
        cycle = digits._adversary(plan)
        own = {name: p.detach().clone() for name, p in net.named_parameters()}
        back = [p.detach().clone() for p in cycle.back.parameters()]
        net.zero_grad()
        cycle(net, batch).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
        assert all(torch.equal(p, q) for p, q in zip(cycle.back.parameters(), back, strict=True))
        cycle.capture()  # the step is made before the state is taken
        assert not any(torch.equal(p, q) for p, q in zip(cycle.back.parameters(), back, strict=True))
        assert all(torch.equal(p, own[name]) for name, p in net.named_parameters())
    with pytest.raises(BadInput, match="No objective named 'hinge'"):
        digits._adversary(FitPlan(Training(objective="hinge"), seed=0, until=1))


def test_what_cannot_be_taken_back_costs(digits: ImageTranslationTask) -> None:
    """The same answers in another order please the critic as well, and do not lead back."""
    cycle = digits._adversary(FitPlan(Training(batch_size=32), seed=0, until=1))
    net = network(digits)
    for _ in range(3):
        cycle.warm_up_(net)
    a = cycle.there.rival.inputs(64)
    with torch.no_grad():
        answers = net(a)
        there_and_back, another = (float(cycle._apart(cycle.back(y), a)) for y in (answers, answers.roll(1, 0)))
    assert another > 1.15 * there_and_back


def test_batches_hold_both_sets_and_no_pairs(digits: ImageTranslationTask) -> None:
    def first(seed: int) -> Batch:
        return next(iter(digits.batches("train", Training(), seed=seed, device="cpu")))

    one, again, other = first(0), first(0), first(1)
    assert torch.equal(one.target, again.target) and not torch.equal(one.target, other.target)
    assert one.target.min() == -1 and one.target.max() == 1 and one.target.shape == one.inputs[0].shape
    pairs = {made.tobytes() for split in OF_SECOND for made in bold(digits.raw(split)["image"])}
    assert len(pairs) > 890 and pairs.isdisjoint(real.tobytes() for split in OF_SECOND for real in digits.real(split))
    sizes = [len(batch.target) for batch in digits.batches("val", Training(batch_size=50), seed=0, device="cpu")]
    assert sum(sizes) == digits.n_examples("val") == len(digits.real("val"))


# ── The metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_second_set_is_nearer_to_itself_than_the_first(digits: ImageTranslationTask) -> None:
    like = bold(digits.raw("test")["image"]).astype(np.float32)
    good = digits.evaluate(lambda inputs: {"restyled": like}, "test").metrics
    assert good["frechet"] < 0.1 and good["same_class"] > 0.9 and good["kept_distances"] > 0.8
    unchanged = digits.evaluate(digits.baselines()["unchanged"], "test").metrics
    assert unchanged["frechet"] > 4 * good["frechet"] and unchanged["kept_distances"] == pytest.approx(1)
    one = digits.evaluate(lambda inputs: {"restyled": np.repeat(digits.real("test")[:1], len(like), 0)}, "test").metrics
    assert one["frechet"] > 0.5 and one["kept_distances"] == 0


def test_kept_distances_are_of_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(60, 4, 4))
    assert kept_distances(x, 5 - 2 * x) == pytest.approx(1)
    assert abs(kept_distances(x, np.random.default_rng(1).normal(size=(60, 16)))) < 0.1
    assert kept_distances(x, np.zeros_like(x)) == 0


def test_a_reader_sees_what_was_given_beside_what_came_of_it(digits: ImageTranslationTask) -> None:
    found = digits.evaluate(digits.baselines()["unchanged"], "test")
    rows = evidence.pictures(digits, found, found)["rows"]
    assert list(rows) == ["given", "real, of test", "fp32 winner"]
    assert rows["given"] == rows["fp32 winner"] != rows["real, of test"]


# ── Two sets of one's own ────────────────────────────────────────────────────────────────────────────────────────────


def sets(n_a: int, n_b: int, shape: tuple[int, ...] = (8, 8)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.integers(0, 100, (n_a, *shape), dtype=np.uint8),
        "b": rng.integers(100, 256, (n_b, *shape), dtype=np.uint8),
    }


def npz(folder: Path, **arrays: np.ndarray) -> dict[str, str]:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return {"data": str(folder / "data.npz")}


@pytest.mark.parametrize("shape", [(10, 10), (12, 9, 3), (3, 9, 12)], ids=str)
def test_an_archive_of_two_sets(tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perception, "STEPS", 5)
    task = registry.load(npz(tmp_path, **sets(40, 70, shape)))
    assert isinstance(task, ImageTranslationTask) and task.goal.metric == "frechet"
    assert task.inputs == (TensorSpec("image", shape, "uint8"),) and task.answers == (TensorSpec("restyled", shape),)
    assert sum(len(rows) for rows in task.data.rows.values()) == 110
    for split in ("val", "test"):
        assert task.raw(split)["image"].max() < 100 <= task.real(split).min()
        assert task.n_examples(split) == len(task.real(split)) == len(task.data.rows[OF_SECOND[split]])
    config, packed = task.pack()
    other = registry.unpack(config, packed)
    net = SPACE.build(SMALL, task.spec)
    deployed = Deployed(task.preprocessor(), net, task.postprocessor()).eval()
    predict = TorchPredictor(deployed, task.inputs, task.answers)
    drawn = predict(task.raw("val"))["restyled"]
    assert drawn.shape == (task.n_examples("val"), *shape) and drawn.min() >= 99.999 and drawn.max() <= 255.001
    found = task.evaluate(predict, "val").metrics
    assert found == other.evaluate(predict, "val").metrics and "same_class" not in found
    assert len(task.evaluate(predict, "train").scores) == task.n_examples("train")


def test_given_splits_are_kept_and_cut_to_the_smaller_set(tmp_path: Path) -> None:
    arrays = {f"{name}_train": values for name, values in sets(30, 40).items()}
    arrays |= {f"{name}_test": values for name, values in sets(12, 9).items()}
    task = registry.load(npz(tmp_path, **arrays))
    assert isinstance(task, ImageTranslationTask)
    assert task.n_examples("test") == 9 and np.array_equal(task.real("test"), arrays["b_test"])
    known = {values.tobytes() for values in arrays["a_test"]}
    assert all(values.tobytes() in known for values in task.raw("test")["image"])
    assert task.n_examples("train") + task.n_examples("val") == 30


def test_a_folder_of_two_sets(tmp_path: Path) -> None:
    for name, pictures in sets(30, 24, (9, 12, 3)).items():
        (tmp_path / name).mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{index}.png")
    task = registry.load({"data": str(tmp_path), "kind": "restyling"})
    assert isinstance(task, ImageTranslationTask) and task.spec.inputs[0].shape == task.spec.outputs[0].shape == (
        3,
        9,
        12,
    )
    assert task.raw("test")["image"].max() < 100 <= task.real("test").min()


def test_what_is_no_two_sets_is_refused(tmp_path: Path) -> None:
    def refused(match: str, **arrays: np.ndarray) -> None:
        with pytest.raises(BadInput, match=match):
            registry.load({**npz(tmp_path, **arrays), "kind": "restyling"})

    two = sets(30, 30)
    refused("holds a and lacks 'b'; it must hold two sets of pictures", a=two["a"])
    refused("holds a, b, c; it must hold two sets", **two, c=two["a"])
    refused("lacks 'b_test'", a_train=two["a"], b_train=two["b"], a_test=two["a"])
    refused(r"'b' of .* has pictures of shape \(9, 8\) and 'a' of \(8, 8\)", a=two["a"], b=sets(3, 30, (9, 8))["b"])
    refused("'b' of .* is empty", a=two["a"], b=two["b"][:0])
    refused("'b' of .* is of type <U1", a=two["a"], b=np.full((30, 8, 8), "x"))
    refused("holds 1 set of pictures, and restyling goes from one to another", x=two["a"])
    refused("holds 3 sets of pictures", x=two["a"], y=np.arange(30) % 3)
    refused("holds no pictures, which is what is restyled", x=np.ones((30, 5)), y=np.arange(30) % 2)
    refused("Every value of the train pictures of .* is 7; there is nothing", a=two["a"], b=np.full((30, 8, 8), 7))
    refused("The (val|test) split of .* would be empty", a=two["a"], b=two["b"][:1])
    (tmp_path / "only" / "a").mkdir(parents=True)
    Image.fromarray(two["a"][0]).save(tmp_path / "only" / "a" / "0.png")
    with pytest.raises(BadInput, match="has one class, 'a'; at least 2 subfolders"):
        registry.load({"data": str(tmp_path / "only"), "kind": "restyling"})


def test_no_row_is_in_two_splits_and_a_surplus_is_trained_on() -> None:
    is_second = np.arange(100) >= 30
    rows = {"train": np.arange(0, 100, 2), "val": np.arange(1, 100, 4), "test": np.arange(3, 100, 4)}
    open_ = by_set(rows, is_second, is_given=dict.fromkeys(rows, False))
    every = np.concatenate(list(open_.values()))
    assert np.array_equal(np.sort(every), np.arange(100))
    assert len(open_["val"]) == len(open_[OF_SECOND["val"]]) and len(open_["test"]) == len(open_[OF_SECOND["test"]])
    assert all((is_second[chosen] == (name in OF_SECOND.values())).all() for name, chosen in open_.items())
    given = by_set(rows, is_second, is_given={"train": True, "val": True, "test": True})
    assert len(given[OF_SECOND["train"]]) == is_second[rows["train"]].sum()


# ── The networks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pictures(channels: int, height: int, width: int) -> DataSpec:
    shape = (channels, height, width)
    return DataSpec("image", (TensorSpec("image", shape),), (TensorSpec("sample", shape),))


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (13, 16), (32, 20)], ids=str)
@pytest.mark.parametrize("enlarge", ["transposed", "nearest"])
def test_a_picture_keeps_its_size(enlarge: str, size: tuple[int, int]) -> None:
    for widths in ((8,), (8, 12), (8, 8, 8)):
        for skip in (False, True):
            net = SPACE.build(SPACE.arch(widths=widths, enlarge=enlarge, skip=skip), pictures(3, *size))
            assert net(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_what_cannot_be_halved_is_infeasible_and_what_is_no_pair_of_sets_refused() -> None:
    with pytest.raises(Infeasible, match="cannot be halved 3 times"):
        SPACE.build(SPACE.arch(widths=(8, 8, 8, 8)), pictures(1, 8, 8))
    assert SPACE.accepts(pictures(1, 8, 8)) is None
    for other in ("digits", "digits-generation", "digits-denoising"):
        assert "--problem image-translation" in str(SPACE.accepts(registry.load({"task": other}).spec))


@pytest.mark.parametrize("enlarge", ["transposed", "nearest"])
@pytest.mark.parametrize("skip", [False, True])
def test_every_width_is_cut_and_computes_what_the_masked_one_does(enlarge: str, skip: bool) -> None:
    arch = SPACE.arch(widths=(8, 12), blocks=2, enlarge=enlarge, skip=skip)
    torch.manual_seed(0)
    net, x = SPACE.build(arch, pictures(1, 8, 8)), torch.randn(5, 1, 8, 8)
    net(x)  # running statistics that are not those of a fresh network
    net.eval()
    groups, refused = prunable_groups(net, (x,))
    assert refused == ()
    # a skip makes what is begun and what is enlarged one group; each residual block has one of its own inside
    assert sorted(len(group) for group in groups) == ([8, 12, 12, 12] if skip else [8, 8, 12, 12, 12])
    edits = drops((group, [0, 3]) for group in groups)
    with torch.no_grad():
        masked, cut = (SPACE.build(arch, pictures(1, 8, 8)).eval() for _ in range(2))
        for other in (masked, cut):
            other.load_state_dict(net.state_dict())
        mask_edits_(masked, edits)
        apply_edits_(cut, edits)
        torch.testing.assert_close(cut(x), masked(x), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in net.parameters())
