"""The code in CONTRIBUTING.md runs as it stands: the family holds the quick checks, the stage makes its artifact."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from searchkit.core.space_file import load_space
from searchkit.tasks import registry
from searchkit.testing.fixture import Fixture
from searchkit.testing.suite import run_check

ROOT = Path(__file__).parents[1]
FAMILY, STAGE = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    folder = tmp_path_factory.mktemp("contributing")
    (folder / "patches.py").write_text(FAMILY, encoding="utf-8")
    space = load_space(folder / "patches.py")
    return Fixture(space, registry.load({"task": space.task}), folder)


@pytest.mark.parametrize("check", ["accepts_its_task", "sample_is_deterministic", "build_is_pure", "output_shape"])
def test_the_family_holds(check: str, fixture: Fixture) -> None:
    assert run_check(check, fixture).outcome == "passed", run_check(check, fixture).detail


def test_the_stage_rounds_the_weights(fixture: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "round_weights.py").write_text(STAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import round_weights

    child = fixture.stage(round_weights.RoundWeights(step=0.125))
    del sys.modules["round_weights"]
    weights = fixture.context.network(child).state_dict().values()
    assert all((tensor / 0.125 == (tensor / 0.125).round()).all() for tensor in weights)
    assert child.parent == fixture.promoted.id and child.notes["step"] == 0.125
