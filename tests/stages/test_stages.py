"""What holds for every stage, whichever it is, and what the pipeline sees to: one line of small stages on iris.

Each stage is proved in its own file as well; here are the promises that they share.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interrupt_driver import dropped_ctrl_c
from report_run import make_run
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, GateFailed, Inapplicable
from searchkit.core.interrupt import Interrupted, interruptible
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage, StageContext
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, Teacher, TrainState
from searchkit.evaluation import evidence
from searchkit.evaluation.records import stored
from searchkit.onnx import measure
from searchkit.report import html
from searchkit.report.data import gather
from searchkit.run import Run
from searchkit.stages import recipes
from searchkit.stages.distill import Distill, Ensemble
from searchkit.stages.export import Export
from searchkit.stages.pipeline import SKIPPED, LeftOut, StageBudget, apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.stages.recipe import Recipe
from searchkit.tasks import registry

SPACE = load_space(Path(__file__).parents[1] / "families" / "tiny.py")
WIDE = SPACE.arch((96, 32), "relu")  # large enough for int8 to shrink its file
LINE: tuple[Stage, ...] = (
    Promote(),
    Distill(epochs=2, ensemble=2),
    Prune(to=0.6, steps=1, recovery_epochs=2, round_to=1),
    Quantize(methods=("weight-only", "dynamic"), max_drop=1.0),
    Export(),
)


def iris(**changes: object) -> Task:
    return registry.load({"task": "iris", **changes})


def trial(ctx: Context, number: int, arch: object = WIDE, epochs: int = 2) -> Artifact:
    """A trained network as the search leaves it."""
    torch.manual_seed(number)
    net = SPACE.build(arch, ctx.task.spec)
    training = replace(SPACE.training.default, epochs=epochs)
    state = ctx.task.fit(net, FitPlan(training, seed=number, until=epochs, validate=True), TrainState())
    (log, last) = (state.numbers["curve"], state.numbers["curve"][-1])
    draft = Artifact(
        id=f"trial-{number}", space=SPACE.name, arch=freeze(arch), training=freeze(training), edits=(), parent=None,
        made_by={"stage": "Trial", "number": number},
        metrics={ctx.task.goal.metric: last["val"], "params": float(measure.params(net))},
    )  # fmt: skip
    return ctx.run.save(draft, weights=net.state_dict(), log=log)


def context(folder: Path, task: Task) -> Context:
    run = Run.create(folder, "run", {"question": {}})
    return Context(run=run, task=task, spaces=lambda name: SPACE, echo=lambda text: None)


def whole_line(folder: Path, task: Task) -> SimpleNamespace:
    """The line, stage by stage: its artifacts, and what was on disk before each of them."""
    ctx = context(folder, task)
    trial(ctx, 1)
    line, snapshots = [trial(ctx, 0)], []
    for stage in LINE:
        snapshots.append(files(ctx.run.path / "artifacts"))
        line += apply((stage,), line[-1], ctx)
    return SimpleNamespace(ctx=ctx, artifacts=line[1:], snapshots=snapshots)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return whole_line(tmp_path_factory.mktemp("clean"), iris())


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path, iris())


def timed(paths, example, **options):  # type: ignore[no-untyped-def]
    """In the place of `measure.latency`: no test depends on time."""
    assert all(len(rows) == 1 for rows in example.values())
    return {id: measure.Latency(1.0, 1.0, 1.0, 1.0, 1.0, 5, 40, "no difference") for id in paths}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


# ── every stage ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_stage_writes_a_child_of_the_one_before(clean: SimpleNamespace) -> None:
    parents = ["trial-0", *(a.id for a in clean.artifacts)]
    assert [a.stage for a in clean.artifacts] == [type(stage).__name__ for stage in LINE]
    assert [a.parent for a in clean.artifacts] == parents[:-1]
    assert len(set(parents)) == len(parents)
    for artifact, stage in zip(clean.artifacts, LINE, strict=True):
        assert clean.ctx.run.load(artifact.id) == artifact
        assert {key: artifact.made_by[key] for key in freeze(stage)} == freeze(stage)
        assert clean.ctx.task.goal.metric in artifact.metrics
        assert artifact.metrics["size_bytes"] == clean.ctx.model_path(artifact).stat().st_size


def test_a_line_done_again_does_nothing(clean: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(clean.ctx.run.path)

    def refuse(self: Stage, artifact: Artifact, ctx: Context) -> Artifact:
        raise AssertionError(f"{type(self).__name__} is called again")

    for stage in LINE:
        monkeypatch.setattr(type(stage), "__call__", refuse)
    again = apply(LINE, clean.ctx.run.load("trial-0"), clean.ctx)
    assert again == clean.artifacts
    assert files(clean.ctx.run.path) == before


def test_the_same_line_elsewhere_has_the_same_ids_weights_and_scores(clean: SimpleNamespace, tmp_path: Path) -> None:
    other = whole_line(tmp_path, iris())
    assert [a.id for a in other.artifacts] == [a.id for a in clean.artifacts]
    for mine, theirs in zip(other.artifacts, clean.artifacts, strict=True):
        assert np.array_equal(other.ctx.run.scores(mine), clean.ctx.run.scores(theirs))
        if "weights" in mine.files:
            a, b = other.ctx.run.weights(mine), clean.ctx.run.weights(theirs)
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        assert mine.edits == theirs.edits


def test_an_id_depends_on_the_parent_the_settings_and_the_seed(clean: SimpleNamespace) -> None:
    ctx, parent = clean.ctx, clean.artifacts[0]
    known = ctx.child(parent, Prune(to=0.5)).id
    assert known == ctx.child(parent, Prune(to=0.5)).id
    others = [
        ctx.child(parent, Prune(to=0.4)).id,
        ctx.child(parent, Quantize()).id,
        ctx.child(clean.artifacts[1], Prune(to=0.5)).id,
        replace(ctx, seed=1).child(parent, Prune(to=0.5)).id,
    ]
    assert len({known, *others}) == 5


def test_parents_are_untouched(clean: SimpleNamespace) -> None:
    """Every file of every ancestor has the size and the time that it had before each stage."""
    snapshots = [*clean.snapshots, files(clean.ctx.run.path / "artifacts")]
    for before, after in zip(snapshots, snapshots[1:], strict=False):
        assert before.items() <= after.items() and len(after) > len(before)


# ── what the pipeline sees to ────────────────────────────────────────────────────────────────────────────────────────


def keep(draft: Artifact, parent: Artifact, ctx: Context) -> Artifact:
    """The parent's weights under the draft's id, without the seconds of an export."""
    metrics = {**parent.metrics, "size_bytes": 1.0}
    return ctx.run.save(replace(draft, metrics=metrics), weights=ctx.run.weights(parent))


@dataclass(frozen=True)
class Counted:
    """A stage that keeps the weights as they are and notes in a file that it did."""

    name: str = "a"

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.append_line("calls.jsonl", {"name": self.name})
        return keep(ctx.child(artifact, self), artifact, ctx)


@dataclass(frozen=True)
class Refusing:
    """Has nothing to act on."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        raise Inapplicable("there is nothing to do")


@dataclass(frozen=True)
class Forgetful:
    """Gives an artifact that is not on disk."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        return ctx.child(artifact, self)


@dataclass(frozen=True)
class Misnaming:
    """Writes under an id of its own."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        return keep(replace(ctx.child(artifact, self), id="another"), artifact, ctx)


@dataclass(frozen=True)
class Meddling:
    """Writes to its parent."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.save(replace(artifact, notes={"touched": True}), weights=ctx.run.weights(artifact))
        return keep(ctx.child(artifact, self), artifact, ctx)


@dataclass(frozen=True)
class Planning:
    """Would like to train."""

    planned_epochs: float = 100.0

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.append_line("calls.jsonl", {"epoch_scale": ctx.epoch_scale, "seconds": ctx.deadline.left()})
        return keep(ctx.child(artifact, self), artifact, ctx)


def test_a_shared_prefix_is_done_once(ctx: Context) -> None:
    start = trial(ctx, 0)
    first = apply((Counted("a"), Counted("b")), start, ctx)
    second = apply((Counted("a"), Counted("c")), start, ctx)
    assert [row["name"] for row in ctx.run.lines("calls.jsonl")] == ["a", "b", "c"]
    assert first[0] == second[0]
    assert first[1].id != second[1].id


def test_a_ctrl_c_that_python_dropped_is_heard_before_the_next_stage(ctx: Context) -> None:
    start = trial(ctx, 0)
    told = replace(ctx, echo=lambda text: dropped_ctrl_c() if "started" in text else None)
    with pytest.raises(Interrupted), interruptible("It goes on."):
        apply((Counted("a"), Counted("b")), start, told)
    apply((Counted("a"), Counted("b")), start, ctx)
    assert [row["name"] for row in ctx.run.lines("calls.jsonl")] == ["a", "b"]


def test_what_was_killed_before_its_end_is_done_again(ctx: Context) -> None:
    start = trial(ctx, 0)
    (made,) = apply((Counted(),), start, ctx)
    (ctx.run.artifact_dir(made.id) / "artifact.json").unlink()
    (again,) = apply((Counted(),), start, ctx)
    assert again == made
    assert len(ctx.run.lines("calls.jsonl")) == 2


def test_a_stage_that_does_not_apply_is_left_out_and_recorded(ctx: Context) -> None:
    start = trial(ctx, 0)
    line = apply((Counted("a"), Refusing(), Counted("b")), start, ctx)
    assert [a.made_by.get("name") for a in line] == ["a", "b"]
    assert line[1].parent == line[0].id
    assert ctx.run.read_json(SKIPPED) == {
        ctx.child(line[0], Refusing()).id: {
            "stage": "Refusing",
            "parent": line[0].id,
            "reason": "there is nothing to do",
        }
    }


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


def test_a_bundle_of_another_line_or_none_is_written_again(ctx: Context) -> None:
    """Also where a kill came between the bundle and its artifact."""
    start = trial(ctx, 0)
    (first,) = apply((Promote(),), start, ctx)
    for harm in ("none", "other", "killed"):
        (made,) = apply((Export(),), first, ctx)
        if harm == "none":
            shutil.rmtree(ctx.run.bundle)
        elif harm == "other":
            apply((Export(rows=3),), first, ctx)
        else:
            (ctx.run.artifact_dir(made.id) / "artifact.json").unlink()
        assert apply((Export(),), first, ctx) == [made]
        assert json.loads((ctx.run.bundle / "manifest.json").read_text())["artifact"] == made.id
        before = files(ctx.run.path)
        assert apply((Export(),), first, ctx) == [made] and files(ctx.run.path) == before


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
    assert "no pruning stage: the network has no inner units to cut." in page
    assert re.search(r"no quantization stage: int8 does not shrink this file: fp32 has [0-9,]+ bytes", page)
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


def test_a_perceptron_has_nothing_to_prune(ctx: Context) -> None:
    start = trial(ctx, 0, SPACE.arch((), "relu"))
    line = apply((Promote(), Prune(to=0.5, recovery_epochs=0)), start, ctx)
    assert [a.stage for a in line] == ["Promote"]
    assert "no inner units" in str(ctx.run.read_json(SKIPPED))


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (Forgetful(), "Forgetful did not write the artifact"),
        (Misnaming(), "Misnaming did not write the artifact"),
        (Meddling(), "Meddling changed its parent trial-0"),
    ],
)
def test_a_broken_promise_is_a_failed_gate(stage: Stage, says: str, ctx: Context) -> None:
    with pytest.raises(GateFailed, match=says):
        apply((stage,), trial(ctx, 0), ctx)


def test_an_export_that_disagrees_is_a_failed_gate(ctx: Context) -> None:
    class Two(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x)
            return -out if torch.compiler.is_exporting() else out

    lying = replace(SPACE, build=lambda arch, spec: Two(SPACE.build(arch, spec)))
    there = replace(ctx, spaces=lambda name: lying)
    plain = trial(ctx, 0)
    weights = {f"net.{name}": value for name, value in ctx.run.weights(plain).items()}
    start = ctx.run.save(replace(plain, id="lying"), weights=weights)
    with pytest.raises(GateFailed, match="The exported file disagrees with the network"):
        apply((Promote(),), start, there)
    assert not ctx.run.has(ctx.child(start, Promote()).id)


def test_time_is_shared_by_what_each_stage_would_train(ctx: Context) -> None:
    """A hundred epochs of a second each do not fit into 70 s: the stages are told so, and the later has its share."""
    hurried = replace(ctx, deadline=Deadline.after(70.0))
    apply((Planning(100.0), Planning(99.0)), trial(ctx, 0), hurried, pace=StageBudget(seconds_per_epoch=1.0))
    first, second = ctx.run.lines("calls.jsonl")
    assert first["epoch_scale"] == pytest.approx(50 / 199, abs=0.1)
    assert 10 < first["seconds"] < 40
    assert second["seconds"] > first["seconds"]  # what the first left over


# ── Distill ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_distill_keeps_the_best_on_val_and_records_its_control(clean: SimpleNamespace) -> None:
    made = clean.artifacts[1]
    values = made.notes["candidates"]
    assert set(values) == {"before distillation", "control", "distilled"}
    assert values[made.notes["kept"]] == max(values.values())
    assert made.metrics["accuracy"] == pytest.approx(max(values.values()))
    assert 1 <= made.notes["teachers"] <= 2
    log = clean.ctx.run.log(made)
    assert [row["candidate"] for row in log] == ["control"] * 2 + ["distilled"] * 2
    assert [row["loss"] for row in log[:2]] != [row["loss"] for row in log[2:]]


@pytest.mark.parametrize(("epochs", "teachers"), [(1, 1), (40, 2)], ids=["a poor one", "a good one"])
def test_the_teacher_takes_in_only_who_makes_it_better_on_val(ctx: Context, epochs: int, teachers: int) -> None:
    """Beside a parent of 3 epochs: by the value of the mean, worked out here again."""
    parent, other = trial(ctx, 0, epochs=3), trial(ctx, 1, epochs=epochs)
    made = apply((Distill(epochs=1, ensemble=3),), parent, ctx)[-1]
    assert made.notes["teachers"] == teachers
    alone, both = (
        ctx.task.goal.value(ctx.scores(Ensemble([ctx.network(member) for member in members])))
        for members in ((parent,), (parent, other))
    )
    assert (both > alone) == (teachers == 2)


def test_distill_that_does_not_help_leaves_the_student_as_it_was(ctx: Context) -> None:
    """Steps of no use: a rate so high that both candidates are ruined."""
    start = trial(ctx, 0, epochs=12)
    made = apply((Distill(epochs=1, lr_scale=1e4, ensemble=1),), start, ctx)[-1]
    assert made.notes["kept"] == "before distillation"
    ours, theirs = ctx.run.weights(made), ctx.run.weights(start)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_distill_into_a_smaller_trial(ctx: Context) -> None:
    start, small = trial(ctx, 0), trial(ctx, 1, SPACE.arch((8,), "tanh"))
    made = apply((Distill(epochs=1, student=1),), start, ctx)[-1]
    assert (made.arch, made.parent) == (small.arch, start.id)
    assert made.metrics["params"] == small.metrics["params"]
    assert ctx.network(made)[0].out_features == 8


def test_distill_brings_the_student_nearer_to_its_teacher(ctx: Context) -> None:
    """With the teacher alone in the loss, more than its control is."""
    start, small = trial(ctx, 0, epochs=12), trial(ctx, 1, SPACE.arch((16,), "tanh"))
    teacher = ctx.network(start)
    batch = next(iter(ctx.task.batches("val", ctx.training(start), seed=0, device="cpu")))

    def distance(net: nn.Module) -> float:
        with torch.no_grad():
            return float(ctx.task.distillation_loss(net.eval(), teacher, batch, temperature=2.0))

    guided, alone = ctx.network(small), ctx.network(small)
    ctx.recover(guided, small, epochs=20, teacher=Teacher(teacher, weight=1.0), lr_scale=1.0)
    ctx.recover(alone, small, epochs=20, lr_scale=1.0)
    assert distance(guided) < distance(alone)
    assert distance(guided) < 0.5 * distance(ctx.network(small))


# ── test is sacred ───────────────────────────────────────────────────────────────────────────────────────────────────


def poisoned(task: Task) -> Task:
    """The same data with NaN for every test row, and one class for all of them."""
    config, arrays = task.pack()
    spoilt = {name: values.copy() for name, values in arrays.items()}
    test = arrays["rows.test"]
    (name,) = (n for n in arrays if n.startswith("input."))
    spoilt[name][test] = np.nan
    spoilt["target"][test] = 0
    return registry.unpack(config, spoilt)


def test_stages_do_not_read_test(clean: SimpleNamespace, tmp_path: Path) -> None:
    task = poisoned(iris())
    assert all(np.isnan(rows).all() for rows in task.raw("test").values())
    other = whole_line(tmp_path, task)
    assert [a.id for a in other.artifacts] == [a.id for a in clean.artifacts]
    for mine, theirs in zip(other.artifacts, clean.artifacts, strict=True):
        assert mine.metrics == theirs.metrics
        if "weights" in mine.files:
            a, b = other.ctx.run.weights(mine), clean.ctx.run.weights(theirs)
            assert all(torch.equal(a[k], b[k]) for k in a)


class Watched:
    """A task that counts the splits that are evaluated; everything else is the task's own."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.read: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.task, name)

    def evaluate(self, predict, split):  # type: ignore[no-untyped-def]
        self.read.append(split)
        return self.task.evaluate(predict, split)


def test_evidence_reads_test_once_for_each_file(clean: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files of a real line; the times are counted, not measured."""
    monkeypatch.setattr(measure, "latency", timed)
    watched = Watched(clean.ctx.task)
    ctx = replace(clean.ctx, task=watched)
    found = evidence.collect(ctx, clean.artifacts, clean.artifacts[0])
    assert watched.read == ["test"] * len(clean.artifacts)
    assert [row.stage for row in found.models] == [a.stage for a in clean.artifacts]
    assert found.chosen == clean.artifacts[-1].id and found.reference == clean.artifacts[0].id
    assert found.n == clean.ctx.task.n_examples("test")
    for row in found.models:
        assert row.metric.low <= row.metric.value <= row.metric.high
        assert row.size_bytes == clean.ctx.model_path(clean.ctx.run.load(row.id)).stat().st_size
    own = found.models[0]
    assert own.difference.value == 0.0 and own.agreement.value == 1.0
    assert found.models[3].size_bytes < found.models[2].size_bytes
    assert np.array(found.errors["confusion"]).sum() == found.n
    again = evidence.collect(ctx, clean.artifacts, clean.artifacts[0])
    assert again == found == stored(ctx.run)
    shorter = evidence.collect(ctx, clean.artifacts[:3], clean.artifacts[0])
    assert len(shorter.models) == 3
    assert len(watched.read) == len(clean.artifacts), "a file is scored once for all time"
