"""Recipes: which stages are done, by whose wish, and what a line of them leaves."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from report_run import make_run
from stage_line import SPACE, Counted, iris, timed, trial

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage, StageContext
from searchkit.core.training import FitPlan, TrainState
from searchkit.evaluation import evidence
from searchkit.onnx import measure
from searchkit.report import html
from searchkit.report.data import gather
from searchkit.stages import recipes
from searchkit.stages.export import Export
from searchkit.stages.pipeline import SKIPPED, LeftOut, apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.stages.recipe import Recipe


def test_what_a_recipe_goes_without_is_recorded_too(ctx: Context) -> None:
    stages = recipes.make("compact", recipes.CompressionConfig(), epochs=3, limited=True)
    assert [s.stage if isinstance(s, LeftOut) else type(s).__name__ for s in stages] == list(recipes.STAGES["compact"])
    (without,) = (s for s in stages if isinstance(s, LeftOut))
    line = apply((Counted("a"), without, Counted("b")), trial(ctx, 0), ctx)
    assert [a.made_by.get("name") for a in line] == ["a", "b"]
    (row,) = ctx.run.read_json(SKIPPED).values()
    assert row["stage"] == "Prune" and row["parent"] == line[0].id and "hard limits are set" in row["reason"]
    for asked in (recipes.make("compact", recipes.CompressionConfig(prune_to=0.3), epochs=3, limited=True),
                  recipes.make("prune", recipes.CompressionConfig(), epochs=3, limited=True)):  # fmt: skip
        assert not [s for s in asked if isinstance(s, LeftOut)]


@dataclass(frozen=True)
class Rounded:
    """A stranger's stage: weights on a grid."""

    step: float = 0.25

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        network = ctx.network(artifact)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_((parameter / self.step).round() * self.step)
        return ctx.save(ctx.child(artifact, self), network, notes={"step": self.step})


def test_a_recipe_is_a_tuple_of_stages_a_strangers_among_them(ctx: Context) -> None:
    own = (Promote(), Rounded(0.5), Export())
    stages = recipes.make(own, recipes.CompressionConfig(), epochs=3, limited=True)
    assert stages == own and Recipe(own).name == "Promote, Rounded, Export" and Recipe(own, "mine").name == "mine"
    line = apply(stages, trial(ctx, 0), ctx)
    assert [a.stage for a in line] == ["Promote", "Rounded", "Export"]
    assert line[1].made_by == {"stage": "Rounded", "step": 0.5} and line[2].parent == line[1].id
    weights = ctx.run.weights(line[1])
    assert all(torch.equal(2 * value, (2 * value).round()) for value in weights.values())
    assert (ctx.run.bundle / "model.onnx").is_file()
    assert apply(stages, ctx.run.load("trial-0"), ctx) == line, "what is there is not made again"
    assert not recipes.quantizes(own) and recipes.quantizes((Promote(), Quantize()))
    assert recipes.stage_names("Promote, Rounded, Export") == ("Promote", "Rounded", "Export")
    assert recipes.stage_names("int8") == ("Promote", "Quantize", "Export") and recipes.stage_names("other") == ()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((), r"begins with Promote\(\).*this one is \(\)"),
        ((Prune(), Export()), r"begins with Promote\(\).*\(Prune, Export\)"),
        ((Promote(), Export), r"class of some; write Export\(\)"),
        ((Promote(), "Export"), "is no stage; a stage is a frozen dataclass"),
        ((Promote(), Rounded(step=np.float32)), "settings of the stage Rounded are part of an artifact's id"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_recipe_is_one_sentence(stages: tuple[Stage, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        recipes.make(stages, recipes.CompressionConfig(), epochs=3, limited=False)


def test_a_recipe_to_distil_takes_its_student_from_the_wish(ctx: Context) -> None:
    wish = recipes.CompressionConfig(student=1, temperature=3.0, teacher_weight=0.9, ensemble=1)
    stages = recipes.make("distill", wish, epochs=3, limited=False)
    assert [type(s).__name__ for s in stages] == ["Promote", "Distill", "Export"]
    trial(ctx, 1, SPACE.arch((8,), "tanh"))
    made = apply(stages[:2], trial(ctx, 0), ctx)[-1]
    wanted = {"student": 1, "temperature": 3.0, "weight": 0.9, "ensemble": 1}
    assert {name: made.made_by[name] for name in wanted} == wanted
    assert made.arch["widths"] == [8] and made.notes["teachers"] == 1
    assert not recipes.quantizes("distill") and recipes.quantizes("compact")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prune_to", (0.0, 1.0, -2.0, float("inf"), float("nan"))),
        ("max_drop", (-0.1, 1.0, float("nan"))),
        ("max_rise", (-0.1, float("inf"), float("nan"))),
        ("student", (-1,)),
        ("temperature", (0.0, -1.0, float("inf"), float("nan"))),
        ("teacher_weight", (-0.1, 1.1, float("nan"))),
        ("ensemble", (0,)),
    ],
)
def test_a_wish_that_cannot_be_is_refused_when_made(field: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(BadInput, match=r"--.* (is out of range; give|prunes nothing; give) .*\.$"):
            recipes.CompressionConfig(**{field: value})  # type: ignore[arg-type]


def test_a_winner_too_small_to_prune_or_quantize_is_shipped_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole default line of a perceptron, to a verified bundle and a report that says what was left out and why."""
    space, task = load_space(Path(__file__).parents[2] / "spaces" / "mlp.py"), iris()
    ctx = Context(run=make_run(tmp_path, n_trials=1), task=task, spaces=lambda name: space, echo=lambda text: None)
    net = space.build(space.points["perceptron"], task.spec)
    training = replace(space.training.default, epochs=3, augment=())
    task.fit(net, FitPlan(training, seed=0, until=3), TrainState())
    made_by = {"stage": "Trial", "number": 0}
    draft = Artifact("perceptron", "mlp", freeze(space.points["perceptron"]), freeze(training), (), made_by, None)
    start = ctx.run.save(replace(draft, metrics={"accuracy": 0.5}), weights=net.state_dict(), log=[])
    stages = recipes.make("compact", recipes.CompressionConfig(ensemble=1), epochs=3, limited=False)
    line = apply(stages, start, ctx)
    assert [a.stage for a in line] == ["Promote", "Distill", "Export"]
    done = subprocess.run([sys.executable, ctx.run.bundle / "verify.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

    monkeypatch.setattr(measure, "latency", timed)
    found = gather(ctx.run, evidence.collect(ctx, line, line[0])).to_json()
    assert found["left_out"].keys() == {"Prune", "Quantize"}
    page = html.render(found)
    assert "Pruning was skipped: the network has no inner units to cut." in page
    assert re.search(r"Quantization was skipped: int8 does not shrink this file: fp32 has [0-9,]+ bytes", page)
    assert "fp32" in found["verdict"] and "int8" not in found["verdict"]
    # another line of the same run: its own recipe and command, and nothing that the first was left out of
    asked = {
        "recipe": "export",
        "wish": recipes.CompressionConfig(prune_to=0.3),
        "command": ["searchkit", "compress", "r"],
    }
    for exported in (apply((Promote(), Export()), start, ctx), line):  # of other files, and of those that are there
        found = gather(ctx.run, evidence.collect(ctx, exported, line[0], asked=asked)).to_json()
        assert (found["run"]["recipe"], found["command"]) == ("export", "searchkit compress r")
        assert found["question"]["wish"]["prune_to"] == 0.3 and found["left_out"] == {}
    again = evidence.collect(ctx, line, line[0], asked={**asked, "recipe": "compact"})
    assert gather(ctx.run, again).left_out.keys() == {"Prune", "Quantize"}
    assert ctx.run.read_json("evidence.json")["recipe"] == "compact"
