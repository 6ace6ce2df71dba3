"""Generation: the Fréchet distance and its scores, the critic's state, what pictures may be brought, and the cuts."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.space_file import load_space
from searchkit.core.state import decode_state, encode_state
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx.predictor import Deployed, TorchPredictor
from searchkit.tasks import registry
from searchkit.tasks.gan import perception
from searchkit.tasks.gan.adversary import CRITIC_STEPS, OBJECTIVES, Adversary, Critic, energy_distance
from searchkit.tasks.gan.frechet import potentials, precision_and_recall
from searchkit.tasks.gan.generation import GenerationTask
from searchkit.tasks.metrics import errors_to_nearest
from searchkit.train import make_optimizer

GAN = load_space(Path(__file__).parents[2] / "spaces" / "gan.py")
SMALL = {
    "dcgan": GAN.arch(widths=(16, 12)),
    "style": GAN.arch(widths=(16, 12), kind="style", kernel=3, style=16),
}


@pytest.fixture(scope="module")
def digits() -> GenerationTask:
    task = registry.load({"task": "digits-generation"})
    assert isinstance(task, GenerationTask)
    return task


def pictures(channels: int, height: int, width: int, noise: int = 16) -> DataSpec:
    return DataSpec("noise", (TensorSpec("noise", (noise,)),), (TensorSpec("sample", (channels, height, width)),))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance of two Gaussians, as it is written."""
    shift = a.mean(0) - b.mean(0)
    one, other = (np.cov(x.T, bias=True) for x in (a, b))
    return float(shift @ shift + np.trace(one + other - 2 * np.real(sqrtm(one @ other))))


def two_sets(n: int = 300, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) + 0.3, rng.normal(size=(n, k)) @ rng.normal(size=(k, k))


# ── The metric ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_have_the_frechet_distance_for_their_mean() -> None:
    a, b = two_sets()
    assert potentials(a, b).mean() == pytest.approx(distance(a, b), rel=1e-9)
    assert potentials(a, a).mean() == pytest.approx(0, abs=1e-9)
    assert potentials(a, a[::-1]).mean() == pytest.approx(0, abs=1e-9)  # of sets: the order is nothing
    once = np.zeros_like(a)  # one point for all: a matrix without an inverse
    assert potentials(once, b).mean() == pytest.approx((b**2).sum(1).mean(), rel=1e-9)
    assert np.isfinite(potentials(np.repeat(a[:2], 150, 0), b)).all()


def test_the_spread_of_the_scores_is_that_of_the_distance_over_resamples() -> None:
    a, b = two_sets()
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, len(a), len(a))
        drawn.append(distance(a[rows], b[rows]))
    error = potentials(a, b).std() / np.sqrt(len(a))
    assert error == pytest.approx(np.std(drawn), rel=0.15)


def test_precision_and_recall_tell_the_wrong_from_the_few() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (200, 3)), rng.normal(20, 1, (200, 3))])
    assert precision_and_recall(real, real) == (1.0, 1.0)
    assert precision_and_recall(real + 100, real) == (0.0, 0.0)
    half = rng.normal(0, 1, (400, 3))  # one of two kinds alone
    precision, recall = precision_and_recall(half, real)
    assert precision > 0.8 and recall < 0.55


def test_an_error_without_a_truth_is_to_the_nearest_example() -> None:
    examples = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert errors_to_nearest(np.array([[9.0, 2.0], [1.0, 0.0]]), examples).tolist() == [[1.0, 4.0], [1.0, 0.0]]


def test_features_are_learned_alike_each_time_and_know_the_digits(
    digits: GenerationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digits.perception
    state = torch.random.get_rng_state()
    monkeypatch.setattr("searchkit.tasks.gan.generation._PERCEPTIONS", {})
    again = registry.load({"task": "digits-generation"})
    assert isinstance(again, GenerationTask)
    for a, b in zip(first.state_dict().values(), again.perception.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(state, torch.random.get_rng_state())
    assert digits.classes is not None
    classes = digits.classes[digits.data.rows["val"]]
    with torch.no_grad():
        right = first.classify(digits._pictures("val")).argmax(1).numpy() == classes
    assert right.mean() > 0.93
    assert digits._features("train").var(0).sum() == pytest.approx(1, rel=1e-3)


def test_real_pictures_are_nearer_than_noise(digits: GenerationTask) -> None:
    real = digits.data.target_of("train")[: digits.n_examples("val")].astype(np.float32)
    good = digits.evaluate(lambda inputs: {"image": real}, "val")
    speckles = np.random.default_rng(0).uniform(0, 16, real.shape).astype(np.float32)
    bad = digits.evaluate(lambda inputs: {"image": speckles}, "val")
    assert good.metrics["frechet"] < 0.15 < 0.5 < bad.metrics["frechet"]
    assert good.metrics["precision"] > 0.8 > 0.3 > bad.metrics["precision"]
    broken = digits.evaluate(lambda inputs: {"image": np.full_like(real, np.nan)}, "val")
    assert broken.metrics["frechet"] > 0.5


def test_the_rival_is_normal_with_the_mean_and_the_axes_of_train(digits: GenerationTask) -> None:
    rival = digits.baselines()["a normal distribution"]
    train = digits.real("train").reshape(digits.n_examples("train"), -1).astype(np.float64)
    noise = np.random.default_rng(0).standard_normal((20_000, 16)).astype(np.float32)
    drawn = rival({"noise": noise})["image"].reshape(len(noise), -1).astype(np.float64)
    assert np.abs(drawn.mean(0) - train.mean(0)).max() < 0.2
    spread, wanted = np.linalg.eigvalsh(np.cov(drawn.T))[::-1], np.linalg.eigvalsh(np.cov(train.T))[::-1]
    assert spread[:16] == pytest.approx(wanted[:16], rel=0.05) and spread[16] < 1e-6
    found = digits.evaluate(rival, "val").metrics
    assert found["real_frechet"] < found["frechet"] < 0.5


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def generator(digits: GenerationTask, kind: str = "dcgan", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net: nn.Module = GAN.build(SMALL[kind], digits.spec)
    return net


def value(net: nn.Module, digits: GenerationTask) -> float:
    deployed = Deployed(digits.preprocessor(), net, digits.postprocessor()).eval()
    return digits.evaluate(TorchPredictor(deployed, digits.inputs, digits.answers), "val").metrics["frechet"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_training_goes_on_bit_for_bit_with_its_critic(
    digits: GenerationTask, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchkit.tasks.gan.adversary.WARM_STEPS", 2)
    monkeypatch.setattr("searchkit.tasks.gan.adversary.UNITS", 4)
    training = replace(GAN.training.default, objective=objective, epochs=3, batch_size=256)
    plan = FitPlan(training, seed=4, until=3)
    straight = generator(digits)
    expected = digits.fit(straight, plan, TrainState())
    state = TrainState()
    for until in (1, 3):
        net = generator(digits, seed=until)
        if not state.epoch:
            net = generator(digits)
        state = digits.fit(net, replace(plan, until=until), decode_state(encode_state(state)))
    assert any(name.startswith("critic.weights.") for name in expected.tensors)
    assert any(name.startswith("critic.optimizer.") for name in expected.tensors)
    assert expected.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(v, state.tensors[name]) for name, v in expected.tensors.items())
    for a, b in zip(straight.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("objective", "kind"), [(OBJECTIVES[0], "style"), *((o, "dcgan") for o in OBJECTIVES)])
def test_every_objective_draws_better_than_chance(digits: GenerationTask, objective: str, kind: str) -> None:
    net = generator(digits, kind)
    before = value(net, digits)
    epochs = 3 if kind == "style" else 1
    training = replace(GAN.training.default, objective=objective, lr=2e-3, epochs=epochs)
    digits.fit(net, FitPlan(training, seed=0, until=epochs), TrainState())
    assert value(net, digits) < 0.85 * before


def test_the_critic_learns_so_often_and_the_generator_not_from_it(digits: GenerationTask) -> None:
    from searchkit.tasks.gan.adversary import RealSource

    net = generator(digits).train()
    rival = RealSource(digits._pictures("train"), lambda raw: raw, lambda n: torch.randn(n, 16))
    batch = Batch((torch.randn(8, 16),), torch.zeros(8, 1, 8, 8))
    for objective, steps in CRITIC_STEPS.items():
        adversary = Adversary(Training(objective=objective, batch_size=8), rival, seed=0)
        before = {name: p.clone() for name, p in net.named_parameters()}
        loss = adversary(net, batch)
        assert {int(slots["step"]) for slots in adversary.optimizer.state.values()} == {steps}
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    with pytest.raises(BadInput, match="No objective named 'hinge'.* minimax, wasserstein, least-squares"):
        Adversary(Training(objective="hinge"), rival, seed=0)


def test_a_critic_of_wasserstein_is_kept_near_a_slope_of_one(digits: GenerationTask) -> None:
    from searchkit.tasks.gan.adversary import RealSource

    torch.manual_seed(0)
    rival = RealSource(digits._pictures("train"), lambda raw: raw, lambda n: torch.randn(n, 16))
    adversary = Adversary(Training(objective="wasserstein", batch_size=32, lr=1e-3), rival, seed=0)
    real, drawn = rival.raw[:64], generator(digits)(torch.randn(64, 16)).detach()
    before = float(adversary._steepness(real, drawn).detach())
    adversary.warm_up_(generator(digits))
    assert float(adversary._steepness(real, drawn).detach()) < 0.4 * before


def test_noise_of_training_is_new_each_epoch_and_that_of_a_split_is_kept(digits: GenerationTask) -> None:
    def first(seed: int) -> Tensor:
        return next(iter(digits.batches("train", Training(), seed=seed, device="cpu"))).inputs[0]

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))
    again = registry.load({"task": "digits-generation"})
    assert all(np.array_equal(digits.raw(s)["noise"], again.raw(s)["noise"]) for s in ("train", "val", "test"))
    assert not np.array_equal(digits.raw("val")["noise"][:50], digits.raw("test")["noise"][:50])


def test_the_energy_distance_is_of_distributions() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(400, 5), torch.randn(400, 5)
    assert abs(float(energy_distance(x, y))) < 0.02
    assert float(energy_distance(x, y + 1)) > 0.2
    assert float(energy_distance(x, 3 * y)) > 0.2
    same = torch.zeros(4, 5, requires_grad=True)
    energy_distance(same, same.detach()).backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None and bool(same.grad.isfinite().all())


def test_momentum_is_of_the_mean_gradient() -> None:
    net = nn.Linear(2, 2)
    assert make_optimizer(net, Training(momentum=0.5)).param_groups[0]["betas"] == (0.5, 0.999)
    assert make_optimizer(net, Training(optimizer="momentum", momentum=0.5)).param_groups[0]["momentum"] == 0.5


# ── Pictures of one's own ────────────────────────────────────────────────────────────────────────────────────────────


def npz(folder: Path, **arrays: np.ndarray) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize("shape", [(10, 10), (12, 9, 3), (3, 9, 12)], ids=str)
@pytest.mark.parametrize("labeled", [True, False])
def test_pictures_of_any_layout_with_classes_or_without(
    tmp_path: Path, shape: tuple[int, ...], labeled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perception, "STEPS", 5)
    x = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)
    arrays = {"x": x} | ({"y": np.arange(60) % 3} if labeled else {})
    task = registry.load({"data": npz(tmp_path, **arrays), "kind": "generation"})
    assert isinstance(task, GenerationTask) and task.goal.metric == "frechet"
    assert task.answers == (TensorSpec("image", shape),)
    config, packed = task.pack()
    other = registry.unpack(config, packed)
    for arch in SMALL.values():
        odd = replace(arch, kernel=3)
        net = GAN.build(odd, task.spec)
        deployed = Deployed(task.preprocessor(), net, task.postprocessor()).eval()
        predict = TorchPredictor(deployed, task.inputs, task.answers)
        drawn = predict(task.raw("val"))["image"]
        assert drawn.shape == (task.n_examples("val"), *shape) and drawn.min() >= -1e-3 and drawn.max() <= 255.001
        assert task.evaluate(predict, "val").metrics == other.evaluate(predict, "val").metrics


@pytest.mark.parametrize(
    ("shape", "size"),
    [((32, 32), 64), ((32, 32, 3), 64), ((3, 32, 32), 64), ((12, 9, 3), 27), ((3, 12, 9), 27), ((1, 8, 8), 16)],
    ids=str,
)
def test_the_noise_grows_with_the_pixels_in_any_layout(tmp_path: Path, shape: tuple[int, ...], size: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)
    assert registry.load({"data": npz(tmp_path, x=x), "kind": "generation"}).inputs[0].shape == (size,)


@pytest.mark.parametrize("size", [(1, 12), (12, 1), (1, 1), (2, 9), (3, 70), (28, 28)], ids=str)
def test_a_critic_takes_pictures_of_any_size(size: tuple[int, int]) -> None:
    critic = Critic(1, *size, is_bounded=True, units=4)
    assert critic(torch.randn(3, 1, *size)).shape == (3, 1)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no pictures, which is what is drawn"):
        registry.load({"data": npz(tmp_path, x=np.random.default_rng(0).normal(size=(40, 6))), "kind": "generation"})
    with pytest.raises(BadInput, match="Every value of the train pictures of .* is 7"):
        registry.load({"data": npz(tmp_path, x=np.full((40, 8, 8), 7, np.uint8)), "kind": "generation"})


@pytest.mark.parametrize(
    "target", ["one class", "numbers of its own", "values", "labels", "classes that only test has"]
)
def test_targets_that_are_no_classes_are_passed_over(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features are learned from how a picture was turned, then."""
    monkeypatch.setattr(perception, "STEPS", 2)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (40, 8, 8), dtype=np.uint8)
    arrays = {"x": x, "y": np.zeros(40, int)}
    if target == "numbers of its own":
        arrays["y"] = np.arange(40)
    if target == "values":
        arrays["y"] = rng.normal(size=40)
    if target == "labels":
        arrays["y"] = rng.integers(0, 2, (40, 3))
    if target == "classes that only test has":
        arrays = {"x_train": x, "y_train": np.zeros(40, int), "x_test": x[:9] + 1, "y_test": np.arange(9) % 2}
    task = registry.load({"data": npz(tmp_path, **arrays), "kind": "generation"})
    assert isinstance(task, GenerationTask) and task.classes is None
    assert task.perception.head.out_features == 4


def test_a_folder_of_images_and_one_of_idx_are_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 10, 12, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        file = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    task = registry.load({"data": str(tmp_path / "images"), "kind": "generation"})
    assert task.spec.outputs == (TensorSpec("sample", (3, 10, 12)),) and task.n_examples("train") > 20
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, values in (("train-images-idx3", pictures[..., 0]), ("train-labels-idx1", np.arange(40) % 2)):
        head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (folder / f"{name}-ubyte").write_bytes(head + values.astype(np.uint8).tobytes())
    task = registry.load({"data": str(folder), "kind": "generation"})
    assert task.spec.outputs == (TensorSpec("sample", (1, 10, 12)),) and task.goal.metric == "frechet"


# ── The generators ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (9, 7), (13, 16), (32, 20)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", ["dcgan", "style"])
def test_a_picture_has_its_size(kind: str, kernel: int, size: tuple[int, int]) -> None:
    for widths in ((8,), (8, 12)):
        net = GAN.build(GAN.arch(widths=widths, kind=kind, kernel=kernel), pictures(3, *size))
        assert net(torch.randn(2, 16)).shape == (2, 3, *size)


def test_what_cannot_be_halved_or_doubled_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="cannot be halved 3 times"):
        GAN.build(GAN.arch(widths=(8, 8, 8)), pictures(1, 8, 8))
    with pytest.raises(Infeasible, match="a kernel of 4 cannot"):
        GAN.build(GAN.arch(widths=(8,)), pictures(1, 9, 9))


@pytest.mark.parametrize("kind", ["dcgan", "style"])
def test_every_width_is_cut_and_computes_what_the_masked_one_does(kind: str) -> None:
    torch.manual_seed(0)
    net, noise = GAN.build(SMALL[kind], pictures(1, 8, 8)), torch.randn(5, 16)
    net(noise)  # running statistics that are not those of a fresh network
    net.eval()
    groups, refused = prunable_groups(net, (noise,))
    assert refused == ()
    stem = "1" if kind == "dcgan" else "start"
    assert (stem, "out") in {(m.name, m.side) for group in groups for m in group.members}
    assert sorted(len(group) for group in groups) == ([12, 16] if kind == "dcgan" else [12, 12, 16, 16, 16])
    edits = drops((group, [0, 3]) for group in groups)
    with torch.no_grad():
        masked, cut = GAN.build(SMALL[kind], pictures(1, 8, 8)), GAN.build(SMALL[kind], pictures(1, 8, 8))
        for other in (masked, cut):
            other.load_state_dict(net.state_dict())
            other.eval()
        mask_edits_(masked, edits)
        apply_edits_(cut, edits)
        torch.testing.assert_close(cut(noise), masked(noise), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_picture_does_not_depend_on_its_neighbors_in_the_batch() -> None:
    torch.manual_seed(0)
    net, noise = GAN.build(SMALL["style"], pictures(1, 8, 8)).eval(), torch.randn(4, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(noise)[2:3], net(noise[2:3]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(net(noise)[0], net(noise)[1], atol=1e-2)
