"""A damaged run: each of its files emptied or cut in half is a sentence or makes no difference, never a traceback.

One run is made, and harm is done to copies of it. A file that the same lines of code read as another is harmed with it:
all weights at once, all models, and so on; a test says that no file of a run is left out.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from searchkit import lifecycle
from searchkit.cli import app as cli
from searchkit.context import Context
from searchkit.core import catalogue
from searchkit.core.data_spec import MOST_CHARACTERS
from searchkit.core.errors import BadInput
from searchkit.core.run_files import NOTES
from searchkit.core.serialization import JSON, thaw
from searchkit.core.space_file import load_space
from searchkit.evaluation.evidence import _kept
from searchkit.evaluation.records import stored
from searchkit.report.data import bundle_digest
from searchkit.run import Run
from searchkit.search.results import searches
from searchkit.search.time_plan import TimePlan
from searchkit.stages.export import finish_bundle
from searchkit.tasks import registry

MLP = load_space(catalogue.find(catalogue.FAMILIES, "mlp"))

NAME = "harmed"
QUESTION = (
    "search", "--space", "mlp", "--task", "iris", "--trials", "2", "--epochs", "3", "--workers", "1",
    "--executor", "inline", "--recipe", "int8", "--name", NAME,
)  # fmt: skip
FILES = (
    "run.json", "splits.npz", "search.json", "search.jsonl", "study.db", "pace.json", "clock.json",
    "evidence.json", "bundle.json",
    "artifacts/*/artifact.json", "artifacts/*/weights.safetensors", "artifacts/*/model.onnx",
    "artifacts/*/scores.npy", "artifacts/*/log.jsonl", "evidence/*.json", "evidence/*.npy", "bundle/*",
)  # fmt: skip
# An empty lock is a lock; what was skipped is not always there; SQLite keeps its journal, empty, beside the study.
UNREAD = ("lock", "skipped.json", "study.db-journal")

Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with the finished one in it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(
            sys, "argv", ["searchkit", *QUESTION, "--runs", str(folder / "runs"), "--reports", str(folder / "reports")]
        )
        cli_main()
    return folder / "runs"


def cli_main() -> int:
    """The exit status; an exception that is no SystemExit would be the traceback that a user sees."""
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["searchkit", *map(str, arguments)])
        capsys.readouterr()
        status = cli_main()
        return status, capsys.readouterr().err

    return run


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_every_file_of_a_run_is_harmed_below(finished: Path) -> None:
    made = files(finished / NAME)
    assert [name for name in made if not any(fnmatch(name, pattern) for pattern in (*FILES, *UNREAD))] == []
    assert [pattern for pattern in FILES if not any(fnmatch(name, pattern) for name in made)] == []


@pytest.mark.parametrize("keep", [0.0, 0.5], ids=["emptied", "halved"])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_a_sentence(finished: Path, call: Call, tmp_path: Path, pattern: str, keep: float) -> None:
    runs, reports, copy = tmp_path / "runs", tmp_path / "reports", tmp_path / "copy"
    shutil.copytree(finished, runs)
    run = runs / NAME
    for name in files(run):
        if fnmatch(name, pattern):
            content = (run / name).read_bytes()
            (run / name).write_bytes(content[: int(len(content) * keep)])
    harmed = {name: (run / name).read_bytes() for name in files(run) if name.startswith("artifacts/")}
    for verb in (["search", "--resume", NAME, "--reports", reports], ["report", NAME, "--reports", reports],
                 ["export", NAME, "--to", copy, "--reports", reports]):  # fmt: skip
        status, err = call(*verb, "--runs", runs)
        assert status in (0, 2), err
        said = [workflow for workflow in err.splitlines() if workflow.startswith("searchkit: ")]
        assert len(said) == (status == 2) and "Traceback" not in err
        assert not said or (said[0].endswith(".") and NAME in said[0]), said
        assert status == 0 or not copy.exists(), "a bundle half written"
    assert {name: (run / name).read_bytes() for name in harmed} == harmed, "what was made is not written over"
    assert len(list((run / "artifacts").iterdir())) == len({name.split("/")[1] for name in harmed}), "nothing trained"


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Path_ = tuple[str | int, ...]
WRONG: dict[type, JSON] = {
    bool: "yes",
    int: "seven",
    float: [1.5],
    str: {"a": 1},
    dict: 7,
    list: 7,
    type(None): {"a": 1},
}
OUTSIDE: dict[type, JSON] = {int: -(10**9), float: -1e9, str: "?!"}


def fields_of(value: JSON, path: Path_ = ()) -> Iterator[tuple[Path_, JSON]]:
    """Every field, of lists the first item alone."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, item in inside:
        yield (*path, name), item
        yield from fields_of(item, (*path, name))


def harmed(plain: JSON, path: Path_, *value: JSON) -> JSON:
    """A copy whose field is gone, or has the value."""
    whole = copy.deepcopy(plain)
    at = whole
    for name in path[:-1]:
        at = at[name]
    if value:
        at[path[-1]] = value[0]
    else:
        del at[path[-1]]
    return whole


def read_lines(run: Run, file: Path) -> None:
    for artifact in run.artifacts().values():
        run.log(artifact)
    run.lines(file.name)


def read_artifact(run: Run, file: Path) -> None:
    """As `Context.network` and the report read it, without weights."""
    found = run.load(file.parent.name)
    Context(run, registry.load({"task": "iris"}), lambda name: MLP).training(found)
    thaw(MLP.arch, found.arch, file=run.named(file.name), whole=True)
    if found.stage in NOTES:
        thaw(NOTES[found.stage], found.notes, file=run.named(file.name))


def read_pace(run: Run, file: Path) -> None:
    for plain in run.read_json(file.name).values():
        thaw(TimePlan, plain, file=run.named(file.name), whole=True)


READERS: dict[str, Callable[[Run, Path], object]] = {
    "run.json": lambda run, file: lifecycle.config_of(Run.open(run.path)),
    "search.json": lambda run, file: searches(run),
    "search.jsonl": read_lines,
    "pace.json": read_pace,
    "clock.json": lambda run, file: lifecycle.Clock(run),
    "evidence.json": lambda run, file: stored(run),
    "bundle.json": lambda run, file: bundle_digest(run, list(run.artifacts().values())),
    "bundle/manifest.json": lambda run, file: finish_bundle(run, {"models": []}),
    "evidence/*.json": lambda run, file: _kept(run, file.stem, "0"),
    "artifacts/*/artifact.json": read_artifact,
    "artifacts/*/log.jsonl": read_lines,
}
FREE = (
    "made_by.*", "notes.parity*", "notes.op_counts*", "notes.*.error", "mlp.settings*", "mlp.profile.0.arch*",
    "mlp.profile.0.training*", "wish.*", "0",
)  # fmt: skip
"""What nobody reads back: it is there for people. A line that is no object is a torn one."""


@pytest.mark.parametrize("pattern", READERS)
def test_every_field_of_every_file_is_checked(finished: Path, tmp_path: Path, pattern: str) -> None:
    """Missing, of another type or out of range: accepted, or a sentence that names the run and the field."""
    run = Run.open(Path(shutil.copytree(finished / NAME, tmp_path / "runs" / NAME)))
    n_refused = 0
    for file in sorted(run.path.glob(pattern))[:5]:
        whole = file.read_text()
        rows = [json.loads(row) for row in whole.splitlines()] if file.suffix == ".jsonl" else json.loads(whole)
        READERS[pattern](run, file)
        for path, value in fields_of(rows):
            changes = [harmed(rows, path), harmed(rows, path, WRONG[type(value)])]
            changes += [harmed(rows, path, OUTSIDE[type(value)])] if type(value) in OUTSIDE else []
            for kind, changed in zip(("missing", "mistyped", "outside"), changes, strict=False):
                plain = "\n".join(map(json.dumps, changed)) if file.suffix == ".jsonl" else json.dumps(changed)
                file.write_text(plain)
                name = ".".join(map(str, path))
                try:
                    READERS[pattern](run, file)
                except BadInput as refused:
                    sentence = str(refused)
                    n_refused += 1
                    assert NAME in sentence and sentence.endswith(".") and len(sentence) <= MOST_CHARACTERS, sentence
                else:
                    assert kind != "mistyped" or any(fnmatch(name, free) for free in FREE), f"{name} {kind} is accepted"
        file.write_text(whole)
    assert n_refused > 0


RUN_FIELDS = ("format", "name", "config", "task", "command", "started", "versions", "hardware")


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_a_run_without_a_field_is_refused_by_every_verb(finished: Path, call: Call, tmp_path: Path, field: str) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    file = tmp_path / "runs" / NAME / "run.json"
    plain = json.loads(file.read_text())
    for changed in ({k: v for k, v in plain.items() if k != field}, {**plain, field: 3.5}):
        file.write_text(json.dumps(changed))
        for verb in (["search", "--resume", NAME], ["compress", NAME], ["report", NAME], ["status", NAME],
                     ["export", NAME, "--to", tmp_path / "copy"], ["export", NAME, "--trial", "0"]):  # fmt: skip
            status, err = call(*verb, "--runs", tmp_path / "runs")
            assert status == 2 and err.count("searchkit: ") == 1 and f"'{field}'" in err and "run.json" in err, err


@pytest.mark.parametrize(
    ("name", "path", "value", "says"),
    [
        ("trial", ("arch", "widths"), [3, 3], "do not make the network of its weights"),
        ("trial", ("arch", "activation"), None, "'activation'"),
        ("trial", ("training", "lr"), -1.0, "'lr' is -1.0, not a number above 0"),
        ("trial", ("training", "optimizer"), "sgdd", "not one of sgd, momentum, rmsprop, adamw"),
        ("trial", ("files",), {}, "'files.weights' is missing"),
        ("trial", ("metrics",), {}, "'metrics."),
        ("trial", ("made_by", "number"), "0", "'made_by.number' is '0', not a whole number"),
        ("trial", ("id",), "other", "is of the artifact 'other'"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_a_trial_that_does_not_fit_is_a_sentence(
    finished: Path, call: Call, tmp_path: Path, name: str, path: Path_, value: JSON, says: str
) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    run = Run.open(tmp_path / "runs" / NAME)
    file = run.artifact_dir(run.trial(0).id) / "artifact.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(harmed(plain, path, value) if value is not None else harmed(plain, path)))
    status, err = call("export", NAME, "--trial", "0", "--to", tmp_path / "copy", "--runs", tmp_path / "runs")
    assert status == 2 and says in err and "artifact.json" in err and "Traceback" not in err, err
    assert not (tmp_path / "copy").exists()
