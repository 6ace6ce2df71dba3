"""The bundle: written whole, verified by a process that has no PyTorch, and every kind of damage found."""

import ast
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from isolated_python import python
from short_line import bundle, line  # noqa: F401  (fixtures)

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.onnx.predictor import OnnxPredictor
from searchkit.run import Run
from searchkit.stages import export
from searchkit.stages.export import Export, digest_of, finish_bundle, write_bundle
from searchkit.stages.promote import Promote
from searchkit.tasks import registry

# ruff: noqa: F811  (a fixture is a parameter with the fixture's name)


def edit(folder, changes, *, digest=True):
    """Change a bundle's manifest, field by field; digest: as one does who knows how it is computed."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for name, value in changes.items():
        manifest[name] = manifest[name] | value if isinstance(value, dict) and value else value
    file.write_text(json.dumps(manifest | ({"digest": digest_of(manifest)} if digest else {})))


def test_the_bundle_holds_what_it_promises(line):
    folder = line.ctx.run.bundle
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "model.onnx", "model_fp32.onnx", "manifest.json", "golden.npz", "verify.py", "run.py", "README.md"
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == names - {"manifest.json"}
    assert manifest["artifact"] == line.exported.id and manifest["stages"] == ["Trial", "Promote", "Quantize", "Export"]
    assert manifest["labels"] == [str(i) for i in range(10)] and manifest["parity"]["agrees"]
    assert manifest["parity"]["n"] == line.ctx.task.n_examples("val")
    assert manifest["size_bytes"] < manifest["fp32_size_bytes"]
    assert (folder / "model.onnx").read_bytes() == line.ctx.model_path(line.quantized).read_bytes()
    assert (folder / "model_fp32.onnx").read_bytes() == line.ctx.model_path(line.fp32).read_bytes()
    assert str(line.ctx.run.path.parent) not in (folder / "manifest.json").read_text()
    assert os.stat(folder).st_mode & 0o777 == 0o755


def test_it_verifies_itself_without_pytorch(bundle):
    done = python(bundle / "verify.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "verified" and "6 files have the hashes" in done.stdout


def test_it_gives_the_metric_on_data_of_the_users_own(line, bundle, tmp_path):
    raw, task = line.ctx.task.raw("val"), line.ctx.task
    (name,) = raw
    truth = task.evaluate(OnnxPredictor(bundle / "model.onnx"), "val")
    expected = f"accuracy {truth.metrics['accuracy']:.4f} on {len(truth.targets)} rows"
    for key, targets in ((name, truth.targets), ("x", np.array([task.labels[i] for i in truth.targets]))):
        np.savez(tmp_path / "mine.npz", **{key: raw[name], "y": targets})
        done = python(bundle / "verify.py", "--data", tmp_path / "mine.npz")
        assert done.returncode == 0 and expected in done.stdout


@pytest.mark.parametrize("harm", ["model.onnx", "golden.npz", "README.md", "run.py"])
def test_a_changed_file_is_found(harm, bundle):
    data = bytearray((bundle / harm).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / harm).write_bytes(data)
    done = python(bundle / "verify.py")
    assert done.returncode == 1 and f"WRONG {harm} has changed" in done.stdout and done.stderr == ""


def test_a_missing_file_a_torn_manifest_and_bad_data_are_said_in_a_line(bundle, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    np.savez(tmp_path / "shape.npz", x=np.zeros((3, 5)), y=np.zeros(3))
    for file, message in (("text.npz", "cannot be read as an npz"), ("other.npz", "has no array"),
                          ("shape.npz", "has rows of shape (5,)"), ("none.npz", "cannot be read")):  # fmt: skip
        done = python(bundle / "verify.py", "--data", tmp_path / file)
        assert done.returncode == 1 and message in done.stdout and done.stderr == ""
    (bundle / "golden.npz").unlink()
    assert "golden.npz is missing" in python(bundle / "verify.py").stdout
    (bundle / "manifest.json").write_text('{"sha256"')
    done = python(bundle / "verify.py")
    assert done.returncode == 1 and done.stdout.startswith("WRONG") and done.stderr == ""


EDITS = {
    "no hashes": {"sha256": {}},
    "an empty hash": {"sha256": {"model.onnx": ""}},
    "another size": {"size_bytes": 12},
    "another fp32 size": {"fp32_size_bytes": 12},
    "another metric": {"metric": {"val": 1.0}},
    "labels in another order": {"labels": [str(i) for i in range(9, -1, -1)]},
    "a label too many": {"labels": [str(i) for i in range(11)]},
    "one label twice": {"labels": [str(i) for i in range(9)] + ["0"]},
}
ALONE = {  # what shows it, if the digest fits again
    "no hashes": "the manifest has no sha256 of README.md",
    "an empty hash": "the manifest has no sha256 of model.onnx",
    "another size": "the manifest says 12",
    "another fp32 size": "the manifest says 12",
    "a label too many": "11 labels; the golden answers have 10 columns",
    "one label twice": "two labels in the manifest are the same",
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_found(name, line, bundle):
    edit(bundle, EDITS[name], digest=False)
    done = python(bundle / "verify.py")
    assert (done.returncode, done.stderr) == (1, "") and "WRONG manifest.json has changed" in done.stdout
    edit(bundle, EDITS[name])
    done = python(bundle / "verify.py")
    assert done.returncode == (name in ALONE) and ALONE.get(name, "verified") in done.stdout and done.stderr == ""
    assert name in ALONE or json.loads((line.ctx.run.path / "bundle.json").read_text())["digest"] not in done.stdout


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"digest": ""}', '{"digest": "1"}', "null"])
def test_a_manifest_of_another_shape_is_said_in_a_line(manifest, bundle):
    (bundle / "manifest.json").write_text(manifest)
    done = python(bundle / "verify.py")
    assert done.returncode == 1 and done.stdout.startswith("WRONG manifest.json ") and done.stderr == ""


@pytest.mark.parametrize("field", ["sha256", "size_bytes", "labels", "inputs", "outputs", "session_options"])
def test_a_missing_or_mistyped_field_of_the_manifest_is_said_in_a_line(field, bundle):
    file = bundle / "manifest.json"
    manifest = {name: value for name, value in json.loads(file.read_text()).items() if name != field}
    for harmed in (manifest, manifest | {field: 3}):
        file.write_text(json.dumps(harmed | {"digest": digest_of(harmed)}))
        done = python(bundle / "verify.py")
        assert done.returncode == 1 and "WRONG" in done.stdout and done.stderr == ""


def test_the_run_and_the_bundle_tell_the_same_digest(line, bundle):
    kept = json.loads((line.ctx.run.path / "bundle.json").read_text())
    assert kept == {
        "artifact": line.exported.id,
        "digest": json.loads((bundle / "manifest.json").read_text())["digest"],
    }
    assert len(kept["digest"]) == 64
    said = python(bundle / "verify.py").stdout.splitlines()
    assert said[-3].startswith("note   nobody has signed this bundle") and said[-2].strip() == kept["digest"]


def test_data_that_break_the_promise_are_found(line, bundle, tmp_path):
    """The metric with --data lies in the promised interval, or in one for as few rows, or the script says both."""
    (name,), task = line.ctx.task.raw("test"), line.ctx.task
    raw, truth = task.raw("test")[name], task.evaluate(OnnxPredictor(bundle / "model.onnx"), "test")
    value, n = truth.metrics["accuracy"], len(truth.targets)
    edit(bundle, {"metric": {"test": {"value": value, "low": value - 0.02, "high": value + 0.02, "n": n}}})

    def verify(rows, targets):
        np.savez(tmp_path / "mine.npz", x=raw[:rows], y=targets[:rows])
        done = python(bundle / "verify.py", "--data", tmp_path / "mine.npz")
        assert done.stderr == "" and ("verified" in done.stdout) == (done.returncode == 0)
        return done.returncode, done.stdout

    shuffled = np.random.default_rng(0).permutation(truth.targets)
    status, said = verify(n, truth.targets)
    assert status == 0 and f"accuracy {value:.4f} on {n} rows" in said
    status, said = verify(n, shuffled)
    found = float((truth.decisions == shuffled).mean())
    assert status == 1 and f"accuracy {found:.4f} on {n} rows" in said
    assert f"outside of what the manifest promises, {value:.4f} ({value - 0.02:.4f} to {value + 0.02:.4f}" in said
    assert verify(40, shuffled)[0] == 1
    one_wrong = truth.targets.copy()
    one_wrong[:8] = truth.decisions[:8]
    one_wrong[0] = (one_wrong[0] + 1) % 10
    assert verify(8, one_wrong)[0] == 0, "one of eight is what .95 allows"


def test_another_model_under_correct_hashes_fails_the_golden_outputs(line, tmp_path):
    folder = line.ctx.run.bundle
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "golden.npz") as stored:
        golden = {name: stored[name] for name in stored.files}
    golden = {name: array[::-1] if name.startswith("output.") else array for name, array in golden.items()}
    files = {"model": folder / "model.onnx", "fp32": folder / "model_fp32.onnx"}
    write_bundle(tmp_path / "b", manifest=manifest, golden=golden, **files)
    done = python(tmp_path / "b" / "verify.py")
    assert done.returncode == 1 and "golden outputs differ by" in done.stdout


def test_a_model_that_does_not_run_under_correct_hashes_is_said_in_a_line(line, tmp_path):
    folder = line.ctx.run.bundle
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "golden.npz") as stored:
        golden = {name: stored[name] for name in stored.files}
    files = {"model": folder / "model.onnx", "fp32": folder / "model_fp32.onnx"}
    write_bundle(tmp_path / "b", manifest=manifest, golden=golden | {"input.image": np.zeros((8, 3))}, **files)
    shape = python(tmp_path / "b" / "verify.py")
    write_bundle(tmp_path / "b", manifest=manifest, golden=golden, **files)
    (tmp_path / "b" / "model.onnx").write_bytes(b"\x08\x07no model")
    damaged = {"sha256": {"model.onnx": hashlib.sha256(b"\x08\x07no model").hexdigest()}, "size_bytes": 10}
    edit(tmp_path / "b", damaged)
    for done in (shape, python(tmp_path / "b" / "verify.py")):
        assert done.returncode == 1 and done.stderr == ""
        assert done.stdout.splitlines()[-1].startswith("WRONG onnxruntime cannot run model.onnx: ")


def test_nothing_in_the_bundle_tells_where_it_was_made(tmp_path):
    """Of data of the user's own: no path of this machine, neither theirs nor the code's."""
    home = tmp_path / "home" / "ada"
    home.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(home / "mine.npz", x=rng.normal(size=(120, 8)), y=rng.integers(0, 2, 120))
    space = load_space(Path(__file__).parents[1] / "families" / "tiny.py")
    task = registry.load({"data": str(home / "mine.npz")})
    run = Run.create(home / "runs", "r", {})
    ctx = Context(run, task, lambda name: space, echo=lambda text: None)
    arch = space.arch((16,), "relu")
    net = space.build(arch, task.spec)
    made_by = {"stage": "Trial", "number": 0}
    draft = Artifact("trial", space.name, freeze(arch), freeze(space.training.default), (), made_by, None)
    trial = run.save(draft, weights=net.state_dict(), log=[])
    Export()(Promote()(trial, ctx), ctx)
    for file in run.bundle.iterdir():
        content = file.read_bytes()
        if file.suffix == ".npz":
            with np.load(file) as stored:
                content = b"".join(name.encode() + stored[name].tobytes() for name in stored.files)
        for place in (str(home), str(tmp_path), str(Path(__file__).parents[2]), str(Path.home()), "/tmp/"):
            assert place.encode() not in content, (file.name, place)


def test_run_py_answers_and_is_short(bundle):
    done = python(bundle / "run.py")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("probabilities of the first row: [") and "of the classes ['0', '1'" in done.stdout
    code = ast.parse((bundle / "run.py").read_text()).body[1:]  # without the docstring
    assert sum(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in code) <= 10


def test_the_scripts_set_the_options_that_the_file_needs(line, tmp_path):
    folder = line.ctx.run.bundle
    manifest = json.loads((folder / "manifest.json").read_text())
    from searchkit.onnx.weight_only import weight_only

    weight_only(folder / "model_fp32.onnx", tmp_path / "w.onnx")
    for model, options in ((tmp_path / "w.onnx", {"session.disable_quant_qdq": "1"}), (folder / "model_fp32.onnx", {})):
        with np.load(folder / "golden.npz") as stored:
            golden = {name: stored[name] for name in stored.files if name.startswith("input.")}
        raw = {name.removeprefix("input."): array for name, array in golden.items()}
        golden |= {f"output.{name}": array for name, array in OnnxPredictor(model)(raw).items()}
        write_bundle(tmp_path / "b", model=model, fp32=folder / "model_fp32.onnx", manifest=manifest, golden=golden)
        assert json.loads((tmp_path / "b" / "manifest.json").read_text())["session_options"] == options
        for script in ("verify.py", "run.py"):
            assert python(tmp_path / "b" / script).returncode == 0


def test_the_test_metric_is_added_afterwards_and_all_hashes_hold(line):
    run = line.ctx.run
    before = (run.bundle / "model.onnx").read_bytes()
    interval = {"value": 0.9444, "low": 0.92, "high": 0.96, "method": "wilson", "n": 360}
    finish_bundle(run, {"models": [{"id": line.exported.id, "metric": interval, "latency": {"ratio": 1.0}}]})
    manifest = json.loads((run.bundle / "manifest.json").read_text())
    assert manifest["metric"]["test"] == interval and (run.bundle / "model.onnx").read_bytes() == before
    assert "0.9444 (0.92 to 0.96, 95 %, n = 360)" in (run.bundle / "README.md").read_text()
    assert python(run.bundle / "verify.py").returncode == 0
    finish_bundle(run, {"models": []})  # evidence of another line changes nothing
    assert json.loads((run.bundle / "manifest.json").read_text()) == manifest


def test_an_interrupted_writing_leaves_the_old_bundle(line, bundle, monkeypatch):
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    manifest = json.loads((bundle / "manifest.json").read_text())
    golden = {"input.x": np.zeros((1, 2)), "output.y": np.zeros((1, 2))}
    files = {"model": bundle / "model.onnx", "fp32": bundle / "model.onnx"}

    def killed(*_):
        raise KeyboardInterrupt

    for name in ("_fill", "_swap"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(export, name, killed)
            write_bundle(bundle, manifest=manifest, golden=golden, **files)
        assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
        assert [file.name for file in bundle.parent.iterdir()] == ["bundle"]


def test_a_kill_between_the_renames_is_mended(line, tmp_path):
    from searchkit.run import Run

    run = Run.create(tmp_path, "killed", {})
    aside = run.path / ".bundle.old.x1" / "bundle"
    aside.parent.mkdir()
    shutil.copytree(line.ctx.run.bundle, aside)
    finish_bundle(run, {"models": []})
    assert python(run.bundle / "verify.py").returncode == 0 and not aside.parent.exists()


def test_a_folder_that_cannot_be_written_is_bad_input(line, tmp_path):
    (tmp_path / "file").write_text("")
    folder = line.ctx.run.bundle
    with pytest.raises(BadInput, match="Cannot write the bundle"):
        write_bundle(
            tmp_path / "file" / "b", model=folder / "model.onnx", fp32=folder / "model.onnx", manifest={}, golden={}
        )


def test_a_torn_bundle_is_bad_input_when_it_is_finished(line, tmp_path):
    from searchkit.run import Run

    run = Run.create(tmp_path, "torn", {})
    shutil.copytree(line.ctx.run.bundle, run.bundle)
    (run.bundle / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="delete it and resume"):
        finish_bundle(run, {"models": []})
