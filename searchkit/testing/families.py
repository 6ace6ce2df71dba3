"""The conformance suite: what every family must hold, checked on samples of it, from its arch to its int8 file.

`searchkit check FILE` runs it on a stranger's family, pytest on ours; a family that cannot hold a check says so with
the reason in `Space.skips`, under the check's name. Proofs on small samples of what the engine relies on; they say
nothing of how well a family learns. The checks of tasks are in `searchkit.testing.tasks`.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from torch import Tensor

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import BadInput, GateFailed, NothingFeasible
from searchkit.core.network import HasBootstrapValue
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.core.space import Space
from searchkit.core.space_file import load_space, source_of
from searchkit.core.state import snapshot
from searchkit.core.task import Task
from searchkit.core.training import Teacher
from searchkit.onnx import io as onnx_io
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at_random, grid_values, like
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.testing.fixture import N_ARCHS, CheckFailed, Fixture, outputs, require
from searchkit.train import Diverged, make_optimizer


@dataclass(frozen=True)
class Result:
    """What came of one check; detail: why it failed or was skipped."""

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""


# ── sample ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_accepts_its_task(subject: Fixture) -> None:
    reason = subject.space.accepts(subject.task.spec)
    require(reason is None, f"accepts() refuses its default task: {reason}")


def check_sample_is_deterministic(subject: Fixture) -> None:
    """The same seed gives the same arch: again, and in another process with another hash seed."""
    here = [freeze(subject.candidate(seed).plain["arch"]) for seed in range(N_ARCHS)]
    random.seed(1)
    torch.manual_seed(1)
    again = [freeze(subject.candidate(seed).plain["arch"]) for seed in range(N_ARCHS)]
    require(here == again, "sample() gives another arch for the same trial; it may ask nothing but the trial")
    path = str(source_of(subject.space)["path"])
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "searchkit.testing.families", path],
        input=json.dumps(freeze(subject.task.spec)), capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    require(done.returncode == 0, f"sample() fails in another process: {done.stderr.strip()[-300:]}")
    require(
        json.loads(done.stdout) == json.loads(json.dumps(here)),
        "sample() gives another arch for the same trial in another process; does it use hash(), a set or random?",
    )


def check_parameters_keep_their_kind(subject: Fixture) -> None:
    """A parameter offers the same choices, or a number on the same scale, whenever it is asked for: Optuna ends a study
    in which it does not. The bounds of a number may depend on what was drawn before.
    """
    first: dict[str, BaseDistribution] = {}
    for seed in range(100):
        for name, distribution in subject.candidate(seed).distributions.items():
            before = first.setdefault(name, distribution)
            try:
                check_distribution_compatibility(before, distribution)
            except ValueError:
                raise CheckFailed(
                    f"sample() asks for {name} as {before} and as {distribution}; a study takes one kind of a name, so "
                    "give the other a name of its own"
                ) from None


def check_arch_survives_json(subject: Fixture) -> None:
    kind = subject.space.arch
    require(is_dataclass(kind), f"arch is {kind}; it must be a frozen dataclass")
    for candidate in subject.candidates:
        back: Any = thaw(kind, json.loads(json.dumps(freeze(candidate.arch))))
        require(back == candidate.arch, f"{candidate.arch} comes back from JSON as {back}")
        require(hash(back) == hash(candidate.arch), f"{kind.__name__} is not frozen, or holds what is not plain data")
        for field in fields(kind):
            value = getattr(back, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                plain = isinstance(item, int | float | str | bool | None.__class__ | tuple)
                require(plain, f"the field {field.name} holds {type(item).__name__}; arch takes plain values")


def check_every_parameter_matters(subject: Fixture) -> None:
    """For each parameter that sample() asks for, each other value changes the network somewhere, or what it learns
    from.
    """
    seen: dict[tuple[str, str], bool] = {}
    tried: dict[tuple[str, str], int] = {}
    for candidate, _ in zip(subject.feasible(), range(4 * N_ARCHS), strict=False):
        before = None
        for name, distribution in candidate.distributions.items():
            if name.startswith("train."):
                continue
            values = grid_values(distribution)
            others = [v for v in {str(v): v for v in (values[0], *values[:4], values[-1])}.values()]
            for value in (v for v in others if v != candidate.params[name]):
                key = (name, str(value))
                if seen.get(key) or tried.get(key, 0) >= 3:
                    continue
                rest = at_random(random.Random(7))
                choose = like({**candidate.params, name: value}, rest)
                other = draw(subject.space, subject.task.spec, choose, epochs=1, way="check")
                if other.params.get(name) != value or other.arch is None or not subject.builds(other):
                    continue
                before = before or _fingerprint(subject, candidate)
                tried[key] = tried.get(key, 0) + 1
                seen[key] = seen.get(key, False) or _differs(before, _fingerprint(subject, other))
    ignored = sorted({f"{name}={value}" for (name, value), changes in seen.items() if not changes})
    require(not ignored, f"build() makes the same network whatever these are: {', '.join(ignored)}")


Fingerprint = tuple[dict[str, tuple[int, ...]], tuple[Tensor, ...]]


def _fingerprint(subject: Fixture, candidate: Candidate) -> Fingerprint:
    """Shapes of the weights, the outputs of a seeded network in eval and in train mode, and what it learns from."""
    net = subject.net(candidate)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    evaluated = outputs(net.eval(), subject.rows(0, 8))
    torch.manual_seed(0)
    trained = outputs(net.train(), subject.rows(0, 8))
    if not isinstance(net, HasBootstrapValue):
        return shapes, (evaluated, trained)
    generator = torch.Generator().manual_seed(0)
    own, target = (torch.randn(evaluated.shape, generator=generator) for _ in range(2))
    return shapes, (evaluated, trained, net.bootstrap(own, target, torch.arange(len(own)) % own.shape[1]))


def _differs(a: Fingerprint, b: Fingerprint) -> bool:
    return a[0] != b[0] or not all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


# ── build ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_build_is_pure(subject: Fixture) -> None:
    for candidate in subject.candidates:
        plain = freeze(candidate.arch)
        first, second = subject.net(candidate, seed=3), subject.net(candidate, seed=3)
        require(freeze(candidate.arch) == plain, f"build() changes the arch {plain}")
        a, b = first.state_dict(), second.state_dict()
        same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        require(same, f"build() makes two different networks from {candidate.arch} and one seed")
        shared = {p.data_ptr() for p in first.parameters() if p.numel()} & {p.data_ptr() for p in second.parameters()}
        require(not shared, f"two builds of {candidate.arch} share weights")


def check_output_shape(subject: Fixture) -> None:
    """Batches of 1 and of 3."""
    wanted = tuple(subject.task.spec.outputs[0].shape)
    for candidate in subject.candidates:
        net = subject.net(candidate).eval()
        for size in (1, 3):
            out = outputs(net, subject.rows(0, size))
            require(
                tuple(out.shape) == (size, *wanted),
                f"the output of {candidate.arch} for a batch of {size} is {tuple(out.shape)}, not {(size, *wanted)}",
            )
            require(bool(out.isfinite().all()), f"a fresh network of {candidate.arch} answers with what is no number")


def check_gradients(subject: Fixture) -> None:
    """Every parameter gets a finite gradient from the task's loss."""
    for candidate in subject.candidates:
        net = subject.net(candidate).train()
        subject.task.loss(net, subject.batch).backward()  # type: ignore[no-untyped-call]
        for name, parameter in net.named_parameters():
            require(parameter.grad is not None, f"the parameter {name} of {candidate.arch} gets no gradient")
            assert parameter.grad is not None
            finite = bool(parameter.grad.isfinite().all())
            require(finite, f"the gradient of {name} of {candidate.arch} is not finite")


def check_learns(subject: Fixture) -> None:
    """20 steps on one batch lower its loss."""
    training = replace(subject.space.training.default, optimizer="adamw", lr=3e-3, weight_decay=0.0)
    for candidate in subject.candidates:
        net = subject.net(candidate).train()
        optimizer = make_optimizer(net, training)
        losses = []
        for _ in range(20):
            loss = subject.task.loss(net, subject.batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        change = f"from {first:.4g} to {last:.4g}"
        require(last < first, f"20 steps on one batch take the loss of {candidate.arch} {change}")


def check_eval_is_deterministic(subject: Fixture) -> None:
    for candidate in subject.candidates:
        net = subject.net(candidate).eval()
        same = torch.equal(outputs(net, subject.rows(0, 4)), outputs(net, subject.rows(0, 4)))
        require(same, f"{candidate.arch} in eval mode answers differently to the same batch")


def check_eval_ignores_other_rows(subject: Fixture) -> None:
    for candidate in subject.candidates:
        net = subject.net(candidate)
        outputs(net.train(), subject.batch.inputs)  # running statistics that are not those of a fresh network
        together = outputs(net.eval(), subject.rows(0, 4))
        alone = torch.cat([outputs(net, subject.rows(i, i + 1)) for i in range(4)])
        scale = max(1.0, float(together.abs().max()))
        worst = float((together - alone).abs().max()) / scale
        require(worst < 1e-4, f"the answer of {candidate.arch} to a row changes by {worst:.3g} with the other rows")


def check_weights_round_trip(subject: Fixture) -> None:
    """Through a safetensors file into another build: the same answers, bit for bit."""
    from safetensors.torch import load, save

    for candidate in subject.candidates:
        net = subject.net(candidate, seed=1)
        outputs(net.train(), subject.batch.inputs)
        plain = save(snapshot(net.state_dict()))
        other = subject.net(candidate, seed=2)
        other.load_state_dict(load(plain))
        same = torch.equal(outputs(net.eval(), subject.rows(0, 4)), outputs(other.eval(), subject.rows(0, 4)))
        require(same, f"{candidate.arch} with its own weights loaded answers differently; is there other state?")


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_export_agrees(subject: Fixture) -> None:
    """The exported file and the network give the same answers on every example of val."""
    _, net = subject.trained
    subject.context.export(net, subject.folder / "parity.onnx")


def check_prune_shrinks(subject: Fixture) -> None:
    """Parameters and file, and the result trains."""
    parent, child = subject.promoted, subject.pruned
    for cost in ("params", "size_bytes"):
        before, after = parent.metrics[cost], child.metrics[cost]
        require(after < before, f"Prune leaves {cost} at {after:,.0f} of {before:,.0f}")
    log = subject.context.run.log(child)
    require(bool(log) and all(math.isfinite(row["loss"]) for row in log), "the pruned network does not train")


def check_distill_matches(subject: Fixture) -> None:
    """A fresh student's match loss to its teacher falls."""
    artifact, teacher = subject.trained
    student = subject.space.build(thaw(subject.space.arch, artifact.arch), subject.task.spec)

    def distance() -> float:
        with torch.no_grad():
            return float(subject.task.distillation_loss(student.eval(), teacher.eval(), subject.batch, temperature=2.0))

    before = distance()
    subject.context.recover(student, artifact, epochs=1, teacher=Teacher(teacher, weight=1.0), lr_scale=1.0)
    after = distance()
    require(after < before, f"an epoch of distillation takes the match loss from {before:.4g} to {after:.4g}")


def check_quantize_shrinks(subject: Fixture) -> None:
    """Every way gives a file that answers; the one that is taken has quantized operators and is smaller."""
    child = subject.stage(Quantize(max_drop=1.0, max_rise=100.0))
    for row in child.notes["candidates"]:
        require(math.isfinite(row["metric"]), f"the {row['method']} int8 file answers with what is no number")
    counts = onnx_io.op_counts(subject.context.model_path(child))
    n_quantized = sum(n for name, n in counts.items() if "quantize" in name.lower() or "Integer" in name)
    require(n_quantized > 0, "no operator of the quantized file is quantized")
    before, after = subject.promoted.metrics["size_bytes"], child.metrics["size_bytes"]
    require(after < before, f"Quantize leaves the file at {after:,.0f} of {before:,.0f} bytes")


def check_stage_resumes(subject: Fixture) -> None:
    """A stage done again is found, not done: the same id, nothing written; and its parent is untouched."""
    parent = subject.promoted
    folder = subject.context.run.artifact_dir(parent.id)
    before = _files(folder)
    child = subject.pruned
    require(_files(folder) == before, f"Prune writes in the folder of its parent {parent.id}")
    stamp = _files(subject.context.run.path / "artifacts")
    again = subject.stage(Prune(to=0.6, steps=1, recovery_epochs=1, round_to=1))
    require(again.id == child.id, f"Prune of the same parent has the id {again.id} now and had {child.id}")
    require(_files(subject.context.run.path / "artifacts") == stamp, "a resumed Prune does its work again")


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────────────────

Check = Callable[[Fixture], None]

CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_") and function.__module__ == __name__
}
"""Every check of this module by name, in order."""


def run_check(name: str, subject: Fixture) -> Result:
    """One check. Whatever the family raises is a failure of the check: this is the boundary to a stranger's code."""
    if name in subject.space.skips:
        return Result(name, "skipped", subject.space.skips[name])
    try:
        CHECKS[name](subject)
    except (CheckFailed, GateFailed, BadInput, NothingFeasible, Diverged) as error:
        return Result(name, "failed", str(error))
    except Exception as error:
        return Result(name, "failed", f"it raises {type(error).__name__}: {error}".splitlines()[0])
    return Result(name, "passed")


def run_checks(space: Space, task: Task, *, path: Path | None = None) -> list[Result]:
    """All checks on a family. path: its file. A name in `skips` that is no check is a failure too."""
    unknown = sorted(set(space.skips) - set(CHECKS))
    results = [
        Result(name, "failed", f"skips names '{name}', which is no check; the checks are {', '.join(CHECKS)}")
        for name in unknown
    ]
    with tempfile.TemporaryDirectory() as folder:
        subject = Fixture(space, task, Path(folder))
        return results + [run_check(name, subject) for name in CHECKS]


def parameter_names(space: Space, spec: DataSpec) -> list[str]:
    """Every name that sample() asks for, and the training's: a stored study knows its trials by them."""
    names: set[str] = set()
    for seed in range(300):
        names |= set(draw(space, spec, at_random(random.Random(seed)), epochs=1, way="names").params)
    return sorted(names)


def _spec_from(plain: dict[str, JSON]) -> DataSpec:
    ports = {side: tuple(thaw(TensorSpec, port) for port in plain[side]) for side in ("inputs", "outputs")}
    return thaw(DataSpec, {**plain, **ports})


if __name__ == "__main__":  # the other process of check_sample_is_deterministic: a spec on stdin, archs on stdout
    family, data = load_space(Path(sys.argv[1])), _spec_from(json.loads(sys.stdin.read()))
    drawn = [draw(family, data, at_random(random.Random(seed)), epochs=1, way="check") for seed in range(N_ARCHS)]
    sys.stdout.write(json.dumps([freeze(c.arch) for c in drawn]))
