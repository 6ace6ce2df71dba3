"""Export: the chosen file with all that a user needs to run and to check it without PyTorch, in one folder.

The bundle is written beside its place and renamed, so it is never half there. The metric on test is not known while
stages run, which never see test; `finish_bundle` adds it once the evidence is in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from searchkit import __version__
from searchkit.core import batching
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays, TensorSpec, brief
from searchkit.core.errors import DAMAGED_ARRAYS, BadInput
from searchkit.core.run_files import Manifest
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.core.stage import ArtifactStore, StageContext
from searchkit.core.task import Calibrated, HasBundleFiles, HasColumns
from searchkit.onnx import io as onnx_io
from searchkit.onnx.parity import Parity, require_parity
from searchkit.tasks.bundle_files import metric_script
from searchkit.tasks.own_metric import name_of
from searchkit.tasks.registry import problem_named

if TYPE_CHECKING:
    from searchkit.run import Run

TEMPLATES = Path(__file__).parent / "bundle"

FORMAT = 1

DIGEST = "bundle.json"
"""In the run: the artifact whose bundle it holds, and the digest of that bundle's manifest, to compare a copy with."""

GOLDEN_ROWS = 8

GOLDEN_TOLERANCE = {"float": 1e-3, "int8": 0.05}
"""Of the largest answer, between machines. int8 arithmetic rounds differently with and without VNNI instructions."""


@dataclass(frozen=True)
class Export:
    """Write the bundle of the artifact.

    Attributes:
        rows: Of val, kept in the bundle as golden inputs and outputs.
    """

    rows: int = GOLDEN_ROWS

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """The artifact as it is shipped; its bundle is in the run.

        Raises:
            GateFailed: The fp32 file disagrees with its network on an example of val.
            BadInput: The bundle cannot be written.
        """
        from searchkit.onnx.predictor import OnnxPredictor

        source = ctx.source(artifact)
        model, fp32 = ctx.model_path(artifact), ctx.model_path(source)
        proof = _prove(source, fp32, ctx)
        raw = batching.take(ctx.task.inputs, ctx.task.raw("val"), slice(0, self.rows))
        golden = {f"input.{name}": array for name, array in raw.items()}
        golden |= {f"output.{name}": array for name, array in OnnxPredictor(model)(raw).items()}
        draft = ctx.child(artifact, self)
        manifest = _describe(draft, artifact, source, ctx) | {"parity": asdict(proof)}
        if isinstance(ctx.task, Calibrated):
            manifest["calibration"] = ctx.task.calibrate(OnnxPredictor(model))
        if isinstance(ctx.task, HasColumns) and ctx.task.columns:
            manifest["columns"] = [freeze(column) for column in ctx.task.columns]
        # The artifact comes last: what is killed before it is done again, bundle and all.
        equipment = ctx.task.bundle_files() if isinstance(ctx.task, HasBundleFiles) else {}
        if name_of(ctx.task) is None:  # verify.py would hold the problem's metric against another's interval
            equipment = {**equipment, **metric_script(problem_named(ctx.task.problem))}
        whole = write_bundle(
            ctx.run.bundle, model=model, fp32=fp32, manifest=manifest, golden=golden, equipment=equipment
        )
        _keep_digest(ctx.run, whole)
        return ctx.save(draft, None, model=model, notes={"parity": asdict(proof)})

    def stands(self, id: str, ctx: StageContext) -> bool:
        """Whether the run's bundle is of the artifact `id`: another recipe may have written its own since."""
        _restore(ctx.run.bundle)
        return _written_manifest(ctx.run.bundle).get("artifact") == id


def _written_manifest(folder: Path) -> dict[str, JSON]:
    """The manifest in a bundle's folder; empty if there is none that can be read."""
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _prove(source: Artifact, fp32: Path, ctx: StageContext) -> Parity:
    from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor

    network = TorchPredictor(ctx.deployed(ctx.network(source)), ctx.task.inputs, ctx.task.answers)
    return require_parity(OnnxPredictor(fp32), network, ctx.task, otherwise="No bundle is written.")


def _describe(draft: Artifact, parent: Artifact, source: Artifact, ctx: StageContext) -> dict[str, JSON]:
    """The manifest but for what the files themselves tell.

    Args:
        draft: The exported artifact.
        parent: Has the same file, and its scores on val.
        source: The float network behind both.
        ctx: Gives the run and the task.
    """
    goal = ctx.task.goal
    line = [*ctx.run.line(parent), draft]
    return {
        "artifact": draft.id,
        "run": ctx.run.name,
        "task": ctx.task.name,
        "space": draft.space,
        "arch": draft.arch,
        "training": draft.training,
        "edits": len(draft.edits),
        "stages": [one.stage for one in line],
        "recipe": [one.made_by for one in line],
        "inputs": [_port(port) for port in ctx.task.inputs],
        "outputs": [_port(port) for port in ctx.task.answers],
        "labels": list(ctx.task.labels),
        "metric": {
            "name": goal.metric,
            "direction": goal.direction,
            "unit": list(goal.unit),
            "val": parent.metrics[goal.metric],
            "test": None,
        },
        "params": source.metrics["params"],
        "macs": source.metrics["macs"],
    }


def _port(port: TensorSpec) -> dict[str, JSON]:
    plain: dict[str, JSON] = freeze(port)
    return plain


def finish_bundle(run: Run, found: Mapping[str, JSON]) -> None:
    """Write the chosen model's test metric with its interval into a run's bundle; all hashes hold afterwards.

    Does nothing if the run has no bundle (a recipe without Export).

    Args:
        run: Has the bundle.
        found: The evidence as JSON.

    Raises:
        BadInput: The bundle cannot be read.
    """
    _restore(run.bundle)
    if not run.bundle.is_dir():
        return
    try:
        manifest = json.loads((run.bundle / "manifest.json").read_text(encoding="utf-8"))
        with np.load(run.bundle / "golden.npz", allow_pickle=False) as stored:
            golden = {name: stored[name] for name in stored.files}
        thaw(Manifest, manifest, file=run.named("bundle/manifest.json", "the bundle's manifest"))
        equipment = {name: (run.bundle / name).read_text(encoding="utf-8") for name in manifest.get("equipment", ())}
    except DAMAGED_ARRAYS as error:
        raise BadInput(
            f"The bundle {run.bundle} cannot be read ({brief(error)}); delete it and resume the run."
        ) from error
    # Bundles of an earlier version have no digest.
    if "digest" in manifest and digest_of(manifest) != manifest["digest"]:
        raise BadInput(f"{run.bundle / 'manifest.json'} was edited after it was written; delete the bundle and resume.")
    row = next((one for one in found["models"] if one["id"] == manifest["artifact"]), None)
    if row is None:
        return  # the evidence is of another line than the one that wrote this bundle
    for side in ("inputs", "outputs"):  # of a bundle that an earlier version wrote: what it left out is as it was
        manifest[side] = [_port(thaw(TensorSpec, port)) for port in manifest[side]]
    manifest["metric"]["test"] = freeze(row["metric"])
    manifest["latency"] = freeze(row["latency"])
    # Copied from the very bundle that is replaced: `write_bundle` moves the old folder away only when the new one is
    # complete.
    whole = write_bundle(
        run.bundle,
        model=run.bundle / "model.onnx",
        fp32=run.bundle / "model_fp32.onnx",
        manifest=manifest,
        golden=golden,
        equipment=equipment,
    )
    _keep_digest(run, whole)


def _keep_digest(run: ArtifactStore, manifest: Mapping[str, JSON]) -> None:
    run.write_json(DIGEST, {"artifact": manifest["artifact"], "digest": manifest["digest"]})


def digest_of(manifest: Mapping[str, JSON]) -> str:
    """The SHA-256 of a manifest as plain JSON, without its own "digest"; `verify.py` computes the same."""
    plain = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_bundle(
    directory: Path,
    *,
    model: Path,
    fp32: Path,
    manifest: Mapping[str, JSON],
    golden: Arrays,
    equipment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, JSON]:
    """Write the folder whole, in place of one that is there; the manifest as written.

    manifest: see `_describe`; sizes, hashes, versions, session options, tolerance and digest are added here. golden:
    "input.<port>" and "output.<port>", a few rows each. equipment: as of `HasBundleFiles`. Raises
    BadInput if the folder cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    except OSError as error:
        raise BadInput(f"Cannot write the bundle {directory}: {error.strerror}; give a folder that can be.") from error
    try:
        for name, text in equipment.items():
            (building / name).write_text(text, encoding="utf-8")
        whole = _fill(building, model, fp32, {**manifest, "equipment": sorted(equipment)}, golden)
        # mkdtemp makes folders that only their owner can open.
        os.chmod(building, 0o755)
        _swap(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return whole


def _fill(folder: Path, model: Path, fp32: Path, manifest: dict[str, JSON], golden: Arrays) -> dict[str, JSON]:
    shutil.copyfile(model, folder / "model.onnx")
    shutil.copyfile(fp32, folder / "model_fp32.onnx")
    np.savez_compressed(folder / "golden.npz", allow_pickle=False, **golden)
    for name in ("verify.py", "run.py"):
        if not (folder / name).exists():  # a task may bring its own run.py
            shutil.copyfile(TEMPLATES / name, folder / name)
    exact = onnx_io.has_float_arithmetic(folder / "model.onnx")
    manifest |= {
        "format": FORMAT,
        "size_bytes": (folder / "model.onnx").stat().st_size,
        "fp32_size_bytes": (folder / "model_fp32.onnx").stat().st_size,
        "session_options": onnx_io.needed_options(folder / "model.onnx"),
        "golden_tolerance": GOLDEN_TOLERANCE["float" if exact else "int8"],
        "versions": {"searchkit": __version__, **{name: version(name) for name in ("onnx", "onnxruntime", "numpy")}},
    }
    # By default jinja2 escapes nothing, and prints nothing for a name that is missing.
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True
    ).get_template("README.md.j2")
    (folder / "README.md").write_text(page.render(manifest) + "\n", encoding="utf-8")
    # After the README, which is hashed too.
    manifest["sha256"] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name != "manifest.json"
    }
    manifest = json.loads(json.dumps(freeze(manifest), allow_nan=False))  # the digest is of what the file will say
    manifest["digest"] = digest_of(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def _swap(building: Path, directory: Path) -> None:
    """Put the new folder in the old one's place; there is never half a bundle.

    A kill between the two renames leaves the old one whole beside it, from where `_restore` fetches it back.
    """
    if directory.exists():
        # A rename cannot replace a folder that is not empty, so the old one is first moved to where `_restore` finds
        # it.
        old = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.old."))
        os.rename(directory, old / directory.name)
        os.rename(building, directory)
        shutil.rmtree(old)
    else:
        os.rename(building, directory)


def _restore(directory: Path) -> None:
    for old in sorted(directory.parent.glob(f".{directory.name}.old.*/{directory.name}")):
        if not directory.exists():
            os.rename(old, directory)
        shutil.rmtree(old.parent)
