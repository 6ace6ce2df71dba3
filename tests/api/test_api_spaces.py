"""Families and networks by their names, as users of timm expect them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import searchkit

ROOT = Path(__file__).parents[2]


def test_the_lists_are_the_folders() -> None:
    families = sorted(path.stem for path in (ROOT / "spaces").glob("*.py") if not path.stem.startswith("_"))
    assert searchkit.list_spaces() == families
    assert searchkit.list_spaces("cnn*") == [name for name in families if name.startswith("cnn")]
    assert "digits" in searchkit.list_tasks()


@pytest.mark.parametrize("name", searchkit.list_spaces())
def test_every_family_gives_a_network_by_its_name(name: str) -> None:
    """The middle of its ranges, for its default task."""
    net = searchkit.create_model(name)
    assert net.training and sum(parameter.numel() for parameter in net.parameters()) > 0
    assert searchkit.load_space(name).name == name


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "arch", "answers"),
    [
        ("mlp", (20,), {"num_targets": 3}, {"widths": (64, 32)}, 3),
        ("mlp", (20,), {"num_classes": 2}, {}, 1),
        ("cnn", (3, 32, 32), {"num_classes": 10}, {"point": "resnet-20"}, 10),
        ("cnn1d", (2, 64), {"num_classes": 5}, {}, 5),
        ("cnn3d", (1, 16, 16, 16), {"num_classes": 4}, {}, 4),
        ("vit", (3, 32, 32), {"num_classes": 7}, {}, 7),
    ],
)
def test_a_network_takes_the_shape_that_was_asked_for(
    name: str, shape: tuple[int, ...], outputs: dict[str, int], arch: dict[str, Any], answers: int
) -> None:
    net = searchkit.create_model(name, input_shape=shape, **outputs, **arch).eval()
    assert net(torch.zeros(2, *shape)).shape == (2, answers)


def test_fields_of_the_architecture_are_set() -> None:
    net = searchkit.create_model("mlp", input_shape=(20,), num_targets=1, widths=(64, 32), batch_norm=False)
    assert [m.out_features for m in net.modules() if isinstance(m, torch.nn.Linear)] == [64, 32, 1]


def test_a_seed_gives_the_same_weights_and_leaves_the_callers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", gpus.append)
    before = torch.random.get_rng_state()
    one, same, other = (
        next(searchkit.create_model("mlp", input_shape=(9,), num_classes=3, seed=seed).parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before) and gpus == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"space": "mlp2"}, "Did you mean 'mlp'"),
        ({"space": "cnn", "input_shape": (20,), "num_classes": 2}, "is not for such data"),
        ({"space": "cnn", "point": "resnet-1000"}, "its points are lenet-5"),
        ({"space": "mlp", "width": 3}, "has no 'width'; it has widths"),
        ({"space": "mlp", "num_classes": 3}, "give input_shape too"),
        ({"space": "mlp", "input_shape": (4,)}, "num_classes or num_targets"),
        ({"space": "mlp", "input_shape": (4,), "num_classes": 2, "num_targets": 2}, "one of them"),
        ({"space": "mlp", "input_shape": (1, 2, 3, 4, 5), "num_classes": 2}, "is unknown"),
        ({"space": "mlp", "input_shape": (0,), "num_classes": 2}, "is unknown"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(given: dict[str, Any], says: str) -> None:
    with pytest.raises(searchkit.BadInput, match=says) as refused:
        searchkit.create_model(**given)
    assert len(str(refused.value)) <= 250


FAMILY = """
from searchkit import Space
from searchkit.core.space import Budget
from searchkit.core.training import TrainingSpace
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class Arch:
    width: int = 8

def accepts(spec): return None
def sample(trial, spec): return Arch(trial.suggest_int("width", 4, 16))
def build(arch, spec): return nn.Sequential(nn.Flatten(), nn.Linear(4, arch.width), nn.ReLU(), nn.Linear(arch.width, 3))

SPACE = Space("own", Arch, accepts, sample, build, TrainingSpace(), "iris", Budget(), "-")
"""


def test_a_family_of_ones_own_as_a_value(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FAMILY)
    family = searchkit.load_space(tmp_path / "own.py")
    how: dict[str, Any] = {"budget": {"trials": 1, "epochs": 1}, "recipe": "none", "progress": "none"}
    found = searchkit.search(family, task="iris", runs=tmp_path / "runs", executor="inline", **how)
    assert found.best.space == "own"
    typed: dict[str, Any] = {}
    exec(FAMILY, typed)  # as in a notebook's cell: there is no file that a worker could load
    with pytest.raises(searchkit.BadInput, match="has no file; save it"):
        searchkit.search(typed["SPACE"], task="iris", runs=tmp_path / "runs", **how)
