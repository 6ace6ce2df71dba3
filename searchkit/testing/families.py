"""The conformance suite of families: what the engine relies on, from sampling to int8.

`searchkit check FILE` runs it on a family file. If a check cannot apply to a family, `Space.skips` gives the reason
under the check's name. The checks run on small samples; they do not say how well a family learns.
`searchkit.testing.tasks` has the checks of tasks.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from torch import Tensor

from searchkit.core.data_spec import DataSpec
from searchkit.core.network import HasBootstrapValue
from searchkit.core.serialization import freeze, thaw
from searchkit.core.space import Space
from searchkit.core.space_file import load_space, source_of
from searchkit.core.state import snapshot
from searchkit.core.training import Teacher
from searchkit.nn.surgery import EXACT, drops, gap, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at_random, grid_values, like
from searchkit.stages.importance import listed
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.testing.fixture import N_ARCHS, CheckFailed, Fixture, outputs, require
from searchkit.train import make_optimizer


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        check: Name of the check.
        outcome: "passed", "failed" or "skipped".
        detail: Why it failed or was skipped; or what to know about a check that passed.
    """

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""


# ── sample ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_accepts_its_task(fixture: Fixture) -> None:
    """The family accepts its default task."""
    reason = fixture.space.accepts(fixture.task.spec)
    require(reason is None, f"accepts() refuses its default task: {reason}")


def check_sample_is_deterministic(fixture: Fixture) -> None:
    """The same seed gives the same architecture, also in another process with another hash seed."""
    here = [freeze(fixture.candidate(seed).plain["arch"]) for seed in range(N_ARCHS)]
    # The global generators are moved in between: a sample that draws from them comes out differently.
    random.seed(1)
    torch.manual_seed(1)
    again = [freeze(fixture.candidate(seed).plain["arch"]) for seed in range(N_ARCHS)]
    require(
        here == again,
        "sample() gives different architectures for the same trial; it may depend only on the trial and the spec",
    )
    path = str(source_of(fixture.space)["path"])
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "searchkit.testing.families", path],
        input=json.dumps(freeze(fixture.task.spec)), capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    require(done.returncode == 0, f"sample() fails in another process: {done.stderr.strip()[-300:]}")
    require(
        json.loads(done.stdout) == json.loads(json.dumps(here)),
        "sample() gives another architecture in another process; does it use hash(), a set or random?",
    )


def check_parameters_keep_their_kind(fixture: Fixture) -> None:
    """A parameter always has the same choices, or a number of the same type and scale.

    Optuna ends a study otherwise. The bounds of a number may depend on other parameters.
    """
    first: dict[str, BaseDistribution] = {}
    for seed in range(100):
        for name, distribution in fixture.candidate(seed).distributions.items():
            before = first.setdefault(name, distribution)
            try:
                check_distribution_compatibility(before, distribution)
            except ValueError:
                raise CheckFailed(
                    f"sample() asks for {name} as {before} and as {distribution}; Optuna takes one kind per name, so "
                    "use another name"
                ) from None


def check_arch_survives_json(fixture: Fixture) -> None:
    """The architecture is a frozen dataclass of plain values, equal after a round trip through JSON."""
    kind = fixture.space.arch
    require(is_dataclass(kind), f"arch is {kind}; it must be a frozen dataclass")
    for candidate in fixture.candidates:
        back: Any = thaw(kind, json.loads(json.dumps(freeze(candidate.arch))))
        require(back == candidate.arch, f"{candidate.arch} comes back from JSON as {back}")
        require(
            hash(back) == hash(candidate.arch), f"{kind.__name__} is not frozen, or holds other values than plain data"
        )
        for field in fields(kind):
            value = getattr(back, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                plain = isinstance(item, int | float | str | bool | None.__class__ | tuple)
                require(plain, f"the field {field.name} holds a {type(item).__name__}; arch takes only plain values")


def check_every_parameter_matters(fixture: Fixture) -> None:
    """Every value of every parameter changes the network or what it learns from; else trials are wasted."""
    seen: dict[tuple[str, str], bool] = {}
    tried: dict[tuple[str, str], int] = {}
    for candidate in islice(fixture.feasible(), 4 * N_ARCHS):
        before = None
        for name, distribution in candidate.distributions.items():
            if name.startswith("train."):
                continue
            values = grid_values(distribution)
            others = [v for v in {str(v): v for v in (values[0], *values[:4], values[-1])}.values()]
            for value in (v for v in others if v != candidate.params[name]):
                key = (name, str(value))
                # Three networks for each value: it may matter only beside others, as the width of a layer
                # that not every network has.
                if seen.get(key) or tried.get(key, 0) >= 3:
                    continue
                rest = at_random(random.Random(7))
                choose = like({**candidate.params, name: value}, rest)
                other = draw(fixture.space, fixture.task.spec, choose, epochs=1, way="check")
                if other.params.get(name) != value or other.arch is None or not fixture.builds(other):
                    continue
                before = before or _fingerprint(fixture, candidate)
                tried[key] = tried.get(key, 0) + 1
                seen[key] = seen.get(key, False) or _differs(before, _fingerprint(fixture, other))
    ignored = sorted({f"{name}={value}" for (name, value), changes in seen.items() if not changes})
    require(not ignored, f"build() ignores these, the network stays the same: {', '.join(ignored)}")


Fingerprint = tuple[dict[str, tuple[int, ...]], tuple[Tensor, ...]]


def _fingerprint(fixture: Fixture, candidate: Candidate) -> Fingerprint:
    """Shapes of the weights, outputs of a seeded network in eval and train mode, and its learning target."""
    net = fixture.net(candidate)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    evaluated = outputs(net.eval(), fixture.rows(0, 8))
    torch.manual_seed(0)
    trained = outputs(net.train(), fixture.rows(0, 8))
    if not isinstance(net, HasBootstrapValue):
        return shapes, (evaluated, trained)
    generator = torch.Generator().manual_seed(0)
    own, target = (torch.randn(evaluated.shape, generator=generator) for _ in range(2))
    return shapes, (evaluated, trained, net.bootstrap(own, target, torch.arange(len(own)) % own.shape[1]))


def _differs(a: Fingerprint, b: Fingerprint) -> bool:
    return a[0] != b[0] or not all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


# ── build ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_build_is_pure(fixture: Fixture) -> None:
    """`build` changes nothing, and gives the same network for the same architecture and seed."""
    for candidate in fixture.candidates:
        plain = freeze(candidate.arch)
        first, second = fixture.net(candidate, seed=3), fixture.net(candidate, seed=3)
        require(freeze(candidate.arch) == plain, f"build() changes the arch {plain}")
        a, b = first.state_dict(), second.state_dict()
        same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        require(same, f"build() makes two different networks from {candidate.arch} and one seed")
        shared = {p.data_ptr() for p in first.parameters() if p.numel()} & {p.data_ptr() for p in second.parameters()}
        require(not shared, f"two builds of {candidate.arch} share weights")


def check_output_shape(fixture: Fixture) -> None:
    """The output has the shape of the spec and is finite, for batches of 1 and 3."""
    wanted = tuple(fixture.task.spec.outputs[0].shape)
    for candidate in fixture.candidates:
        net = fixture.net(candidate).eval()
        for size in (1, 3):
            out = outputs(net, fixture.rows(0, size))
            require(
                tuple(out.shape) == (size, *wanted),
                f"the output of {candidate.arch} for a batch of {size} is {tuple(out.shape)}, not {(size, *wanted)}",
            )
            require(bool(out.isfinite().all()), f"the output of a new network of {candidate.arch} is not finite")


def check_gradients(fixture: Fixture) -> None:
    """Every parameter gets a finite gradient from the task's loss."""
    for candidate in fixture.candidates:
        net = fixture.net(candidate).train()
        fixture.task.loss(net, fixture.batch).backward()  # type: ignore[no-untyped-call]
        for name, parameter in net.named_parameters():
            require(parameter.grad is not None, f"the parameter {name} of {candidate.arch} gets no gradient")
            assert parameter.grad is not None
            finite = bool(parameter.grad.isfinite().all())
            require(finite, f"the gradient of {name} of {candidate.arch} is not finite")


def check_learns(fixture: Fixture) -> None:
    """20 training steps on one batch lower its loss."""
    training = replace(fixture.space.training.default, optimizer="adamw", lr=3e-3, weight_decay=0.0)
    for candidate in fixture.candidates:
        net = fixture.net(candidate).train()
        optimizer = make_optimizer(net, training)
        losses = []
        for _ in range(20):
            loss = fixture.task.loss(net, fixture.batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3  # dropout makes single losses noisy
        change = f"from {first:.4g} to {last:.4g}"
        require(last < first, f"20 steps on one batch take the loss of {candidate.arch} {change}")


def check_eval_is_deterministic(fixture: Fixture) -> None:
    """In eval mode the same batch gives the same output."""
    for candidate in fixture.candidates:
        net = fixture.net(candidate).eval()
        same = torch.equal(outputs(net, fixture.rows(0, 4)), outputs(net, fixture.rows(0, 4)))
        require(same, f"{candidate.arch} in eval mode gives different outputs for the same batch")


def check_eval_ignores_other_rows(fixture: Fixture) -> None:
    """In eval mode the answer to an example does not depend on the rest of the batch."""
    for candidate in fixture.candidates:
        net = fixture.net(candidate)
        outputs(net.train(), fixture.batch.inputs)  # so that running statistics differ from a new network's
        together = outputs(net.eval(), fixture.rows(0, 4))
        alone = torch.cat([outputs(net, fixture.rows(i, i + 1)) for i in range(4)])
        scale = max(1.0, float(together.abs().max()))
        worst = float((together - alone).abs().max()) / scale
        require(worst < 1e-4, f"the output of {candidate.arch} for a row changes by {worst:.3g} with the other rows")


def check_weights_round_trip(fixture: Fixture) -> None:
    """After a round trip through safetensors, another build gives the same outputs bit for bit."""
    from safetensors.torch import load, save

    for candidate in fixture.candidates:
        net = fixture.net(candidate, seed=1)
        outputs(net.train(), fixture.batch.inputs)
        plain = save(snapshot(net.state_dict()))
        other = fixture.net(candidate, seed=2)
        other.load_state_dict(load(plain))
        same = torch.equal(outputs(net.eval(), fixture.rows(0, 4)), outputs(other.eval(), fixture.rows(0, 4)))
        require(same, f"{candidate.arch} gives other outputs after its weights are loaded again; is there other state?")


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_export_agrees(fixture: Fixture) -> None:
    """The exported file and the network agree on every example of val."""
    require("model" in fixture.promoted.files, "Promote leaves no file")  # it exports, and compares all of val


def check_prune_shrinks(fixture: Fixture) -> None:
    """Pruning lowers the number of parameters and the file size, and the result still trains."""
    parent, child = fixture.promoted, fixture.pruned
    for cost in ("params", "size_bytes"):
        before, after = parent.metrics[cost], child.metrics[cost]
        require(after < before, f"Prune leaves {cost} at {after:,.0f} of {before:,.0f}")
    log = fixture.context.run.log(child)
    require(bool(log) and all(math.isfinite(row["loss"]) for row in log), "the pruned network does not train")


def check_cut_equals_masked(fixture: Fixture) -> str:
    """Cutting units answers as setting them to zero does: for a tenth, a half and nine tenths of every sample's units.

    Returns:
        A note that names the layers that stay whole because no cut of them is exact; "" if there are none.
    """
    whole: dict[str, None] = {}
    random = torch.Generator().manual_seed(0)
    for candidate in fixture.candidates:
        net, example = fixture.net(candidate, seed=1).eval(), fixture.rows(0, 4)
        groups, left = prunable_groups(net, example)
        whole |= dict.fromkeys(left)
        for share in (0.1, 0.5, 0.9):
            chosen = [(g, torch.randperm(len(g), generator=random)[: math.ceil(share * len(g))]) for g in groups]
            edits = drops((g, units[: len(g) - 1].tolist()) for g, units in chosen)  # one of each group is left
            difference = gap(net, example, edits)
            require(
                difference <= EXACT,
                f"{candidate.arch} with {share:.0%} of its units cut does not answer as with them set to zero (they "
                f"differ by {difference:.2g}); does forward() depend on a width?",
            )
    names = listed(tuple(whole))
    return f"pruning cannot follow {names} through the network, and leaves them whole" if whole else ""


def check_distill_matches(fixture: Fixture) -> None:
    """One epoch of distillation brings a new student closer to its teacher."""
    artifact, teacher = fixture.trained
    student = fixture.space.build(thaw(fixture.space.arch, artifact.arch), fixture.task.spec)

    def distance() -> float:
        with torch.no_grad():
            return float(fixture.task.distillation_loss(student.eval(), teacher.eval(), fixture.batch, temperature=2.0))

    before = distance()
    fixture.context.recover(student, artifact, epochs=1, teacher=Teacher(teacher, weight=1.0), lr_scale=1.0)
    after = distance()
    require(after < before, f"an epoch of distillation takes the distillation loss from {before:.4g} to {after:.4g}")


def check_quantize_shrinks(fixture: Fixture) -> None:
    """Every int8 method gives finite outputs; the chosen file has quantized operators and is smaller."""
    # Any loss of the metric is accepted: after one epoch it says nothing.
    child = fixture.stage(Quantize(max_drop=1.0, max_rise=100.0))
    for row in child.notes["candidates"]:
        require(math.isfinite(row["metric"]), f"the metric of the {row['method']} int8 file is not finite")
    counts = onnx_io.op_counts(fixture.context.model_path(child))
    n_quantized = sum(n for name, n in counts.items() if "quantize" in name.lower() or "Integer" in name)
    require(n_quantized > 0, "no operator of the quantized file is quantized")
    before, after = fixture.promoted.metrics["size_bytes"], child.metrics["size_bytes"]
    require(after < before, f"Quantize leaves the file at {after:,.0f} of {before:,.0f} bytes")


def check_stage_resumes(fixture: Fixture) -> None:
    """A repeated stage is found and not run: same id, nothing written, parent unchanged."""
    parent = fixture.promoted
    folder = fixture.context.run.artifact_dir(parent.id)
    before = _files(folder)
    child = fixture.pruned
    require(_files(folder) == before, f"Prune writes in the folder of its parent {parent.id}")
    stamp = _files(fixture.context.run.path / "artifacts")
    again = fixture.stage(Prune(to=0.6, steps=1, recovery_epochs=1, round_to=1))
    require(again.id == child.id, f"Prune of the same parent has the id {again.id} now and had {child.id}")
    require(_files(fixture.context.run.path / "artifacts") == stamp, "a repeated Prune does its work again")


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────────────────

Check = Callable[[Fixture], str | None]

CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    # Not optuna's check_distribution_compatibility, which is imported above.
    if name.startswith("check_") and function.__module__ == __name__
}
"""All checks of this module by name, in order."""


def parameter_names(space: Space, spec: DataSpec) -> list[str]:
    """Return every name that `sample` and the training ranges ask for.

    Stored studies refer to trials by these names, so renaming one breaks them.
    """
    names: set[str] = set()
    for seed in range(300):
        names |= set(draw(space, spec, at_random(random.Random(seed)), epochs=1, way="names").params)
    return sorted(names)


if __name__ == "__main__":  # the other process of check_sample_is_deterministic: a spec on stdin, archs on stdout
    family, data = load_space(Path(sys.argv[1])), thaw(DataSpec, json.loads(sys.stdin.read()))
    drawn = [draw(family, data, at_random(random.Random(seed)), epochs=1, way="check") for seed in range(N_ARCHS)]
    sys.stdout.write(json.dumps([freeze(c.arch) for c in drawn]))
