"""Every family of the folder × every check of the shipped suite, and the published points of the families.

tests/golden/<family>.json holds the names of a family's parameters: a stored study knows its trials by them, so to
rename one breaks `--resume`. Where that is meant, write them anew by `PYTHONPATH=. python tests/spaces/test_spaces.py`.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import NotInstalled
from searchkit.core.space import Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.tasks import registry
from searchkit.testing.families import CHECKS, parameter_names
from searchkit.testing.fixture import Fixture
from searchkit.testing.suite import run_check
from searchkit.testing.tasks import TASK_CHECKS

FOLDER = Path(__file__).parents[2] / "spaces"
REWRITE = "PYTHONPATH=. python tests/spaces/test_spaces.py"
GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))

STEPS = {
    "series": DataSpec(
        "series",
        (TensorSpec("series", (2, None)), TensorSpec("lengths", (), "int64")),
        (TensorSpec("logits", (3,)),),
        3,
    ),
    "tokens": DataSpec(
        "tokens",
        (TensorSpec("tokens", (None,), "int64"), TensorSpec("lengths", (), "int64")),
        (TensorSpec("logits", (3,)),),
        3,
        11,
    ),
}


def family(name: str) -> Space:
    return load_space(FOLDER / f"{name}.py")


@cache
def task(name: str) -> Task:
    try:
        return registry.load({"task": name})
    except NotInstalled as error:
        pytest.skip(str(error))


class Subjects(dict[str, Fixture]):
    """Made when they are first asked for: the task of one family may need what is not installed."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self.folders = folders

    def __missing__(self, name: str) -> Fixture:
        space = family(name)
        self[name] = Fixture(space, task(space.task), self.folders.mktemp(name))
        return self[name]


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fixture]:
    return Subjects(tmp_path_factory)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, check: str, subjects: dict[str, Fixture]) -> None:
    result = run_check(check, subjects[name])
    if result.outcome == "skipped":
        pytest.skip(result.detail)
    assert result.outcome == "passed", result.detail


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("name", registry.names())
def test_task(name: str, check: str) -> None:
    TASK_CHECKS[check](task(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameter_names_are_golden(name: str) -> None:
    file = GOLDEN / f"{name}.json"
    if not file.exists():
        pytest.fail(f"The family '{name}' has no golden names yet; write them: {REWRITE}", pytrace=False)
    golden = json.loads(file.read_text())
    space = family(name)
    assert parameter_names(space, task(space.task).spec) == golden


@pytest.mark.parametrize("name", FAMILIES)
def test_published_points_build(name: str, subjects: dict[str, Fixture]) -> None:
    space = family(name)
    spec = task(space.task).spec
    large = image(3, 32) if space.accepts(image(3, 32)) is None else spec
    assert space.points
    for arch in space.points.values():
        chosen = image(1, 28) if arch == family("cnn").points["lenet-5"] else large
        net = space.build(arch, chosen).eval()
        shape = tuple(size for size in chosen.inputs[0].shape if size is not None)
        inputs = subjects[name].rows(0, 2) if chosen is spec else (torch.zeros(2, *shape),)
        assert net(*inputs).shape == (2, *chosen.outputs[0].shape)


def image(channels: int, size: int) -> DataSpec:
    return DataSpec("image", (TensorSpec("image", (channels, size, size)),), (TensorSpec("logits", (10,)),), 10)


@pytest.mark.parametrize(
    ("name", "point", "spec", "params"),
    [
        ("cnn", "lenet-5", image(1, 28), 61_706),  # every course that builds it on padded 28×28 digits
        ("cnn", "vgg-16", image(3, 32), 14_714_688 + 5_130),  # Keras, include_top=False, and a layer of ten classes
        ("cnn", "resnet-20", image(3, 32), 272_474),  # 0.27M in the paper (option A); with projections, 272,474
        ("cnn", "mobilenet", image(3, 32), 3_206_976 + 10_250),  # Keras, trainable, without top, and ten classes
        ("mlp", "lenet-300-100", image(1, 28), 266_610),  # Han et al. 2015: 267K
        ("mlp", "perceptron", image(1, 28), 7_850),
    ],
)
def test_points_have_their_published_sizes(name: str, point: str, spec: DataSpec, params: int) -> None:
    space = family(name)
    assert sum(p.numel() for p in space.build(space.points[point], spec).parameters()) == params


@pytest.mark.parametrize("modality", STEPS)
@pytest.mark.parametrize("name", [n for n in FAMILIES if family(n).accepts(STEPS["series"]) is None])
def test_padding_does_not_reach_the_answer(name: str, modality: str) -> None:
    """A row answers the same alone, and padded with anything beside a longer row."""
    space, spec = family(name), STEPS[modality]
    subject_archs = [space.arch(), *space.points.values()]
    seeded = torch.Generator().manual_seed(0)
    for arch in subject_archs:
        torch.manual_seed(0)
        net = space.build(arch, spec).eval()
        if modality == "tokens":
            short, longer = (torch.randint(11, (1, n), generator=seeded) for n in (21, 30))
            padded = torch.cat([short, torch.randint(11, (1, 9), generator=seeded)], 1)
        else:
            short, longer = (torch.randn(1, 2, n, generator=seeded) for n in (21, 30))
            padded = torch.cat([short, 100 * torch.randn(1, 2, 9, generator=seeded)], 2)
        with torch.no_grad():
            alone = net(short, torch.tensor([21]))
            beside = net(torch.cat([padded, longer]), torch.tensor([21, 30]))[:1]
        torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (1, 13, 16), (2, 41), (11,)], ids=str)
def test_reconstruction_has_the_shape_of_its_input(shape: tuple[int, ...]) -> None:
    modality = {3: "image", 2: "series", 1: "tabular"}[len(shape)]
    spec = DataSpec(modality, (TensorSpec("x", shape),), (TensorSpec("reconstruction", shape),))
    space = family("autoencoder")
    kinds = ("dense",) if len(shape) == 1 else ("dense", "conv")
    for kind in kinds:
        for depth in (1, 2):
            net = space.build(space.arch(widths=(8,) * depth, code=4, kind=kind), spec)
            assert net(torch.randn(2, *shape)).shape == (2, *shape)


def test_variational_code_is_drawn_in_training_and_its_mean_in_eval() -> None:
    spec = DataSpec("tabular", (TensorSpec("x", (12,)),), (TensorSpec("reconstruction", (12,)),))
    space = family("autoencoder")
    net = space.build(space.arch(widths=(8,), code=4, variational=True), spec)
    x = torch.randn(5, 12)
    assert not torch.equal(net(x), net(x))
    mean, spread = net.to_code(net.encoder(x)), net.to_spread(net.encoder(x))
    drawn = torch.distributions.Normal(mean, (0.5 * spread).exp())
    unit = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    nats = torch.distributions.kl_divergence(drawn, unit).sum(1).mean()
    torch.testing.assert_close(net.aux_loss(), nats)
    net.eval()
    assert torch.equal(net(x), net(x))
    assert net.aux_loss() == 0


def test_a_picture_too_small_is_infeasible() -> None:
    from searchkit.core.errors import Infeasible

    space = family("cnn")
    with pytest.raises(Infeasible, match="too small to halve"):
        space.build(space.points["mobilenet"], image(1, 8))


def test_families_refuse_what_is_not_for_them() -> None:
    digits, table = task("digits").spec, task("breast-cancer").spec
    assert {name for name in FAMILIES if family(name).accepts(digits) is None} >= {"mlp", "cnn"}
    for name in ("cnn", "rnn", "transformer", "autoencoder"):
        reason = family(name).accepts(table)
        assert reason is not None
        assert len(reason) > 10
    assert isinstance(family("mlp").build(family("mlp").points["perceptron"], table), nn.Module)


if __name__ == "__main__":
    for known in sys.argv[1:] or FAMILIES:
        names = parameter_names(family(known), task(family(known).task).spec)
        (GOLDEN / f"{known}.json").write_text(json.dumps(names, indent=1) + "\n")
