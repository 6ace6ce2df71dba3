"""The command line as a user runs it: a whole line on a tiny question, every verb on what it left, and what is said.

In this process where the exit status and the text are the matter; in one of its own where it must be: what is imported,
a bundle without PyTorch. Bad input is in test_cli_errors.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.cli import app as cli
from searchkit.cli.console import wrapped
from searchkit.core import catalogue
from searchkit.core.quantities import show_cost
from searchkit.search.time_planning import describe_setting

ROOT = Path(__file__).parents[2]
VERBS = ("search", "compress", "report", "export", "bench", "spaces", "tasks", "status", "check")
TINY = (
    "search", "--space", "mlp", "--task", "iris", "--trials", "2", "--epochs", "3",
    "--workers", "1", "--executor", "inline",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Desk:
    """A working folder, and the command line called in it."""

    folder: Path

    def __call__(self, *arguments: object, status: int | None = 0) -> Done:
        """In a process of its own, as a user does it, without colours of the terminal's own."""
        environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, env={**environment, "COLUMNS": "200"},
        )  # fmt: skip
        assert status is None or done.returncode == status, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The command line in this process; `folder` is where it stands."""
    yield from in_process(tmp_path, monkeypatch, capsys)


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, status: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["searchkit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert int(ended.value.code or 0) == status, err
        return Done(status, out, err)

    yield call


@dataclass(frozen=True)
class Finished:
    """A whole line, run once by the process that a user would start."""

    desk: Desk
    search: Done

    @property
    def run(self) -> Path:
        return self.desk.folder / "runs" / "first"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    return Finished(desk, desk(*TINY, "--name", "first", "--json"))


@pytest.fixture
def there(finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The command line in this process, in the folder of the finished run."""
    yield from in_process(finished.desk.folder, monkeypatch, capsys)


# ── what is said without work ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_three_examples(verb: str, here: Any) -> None:
    text = here(verb, "--help").out
    examples = re.findall(r"^ *searchkit .*$", text.split("Examples:")[1], re.MULTILINE)
    assert len(examples) == 3
    assert sum(f"searchkit {verb}" in line for line in examples) >= 2
    assert "--json" in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_flags_of_the_examples_exist(verb: str, here: Any) -> None:
    """An example that is refused teaches the wrong thing."""
    text = here(verb, "--help").out
    options, examples = text.split("Examples:")
    for flag in re.findall(r"--[a-z-]+", "\n".join(x for x in examples.splitlines() if f"searchkit {verb} " in x)):
        assert flag in options, f"the example of {verb} uses {flag}"


def test_help_names_every_verb(here: Any) -> None:
    text = here("--help").out
    listed = set(re.findall(r"^ +([a-z]+) {2,}\S", text.split("Commands:")[1], re.MULTILINE))
    assert listed == set(VERBS)
    assert here("--version").out.strip() == cli.__version__


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["search", "--help"], 0),
        (["spaces"], 0),
        (["tasks", "--json"], 0),
        (["status"], 0),
        (["search", "--space", "nothing"], 2),
        (["search", "--no-such-flag"], 2),
        (["search", "--space", "mlp", "--task", "iris", "--max-size", "10XB"], 2),
    ],
    ids=str,
)
def test_what_needs_no_work_imports_no_torch(arguments: list[str], status: int, tmp_path: Path) -> None:
    script = (
        "import sys, runpy\n"
        f"sys.argv = ['searchkit', *{arguments!r}]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "status = 0\n"
        "try:\n"
        "    import cli; cli.main()\n"
        "except SystemExit as ended:\n"
        "    status = int(ended.code or 0)\n"
        "heavy = sorted({'torch', 'optuna', 'onnx', 'onnxruntime', 'sklearn', 'scipy'} & set(sys.modules))\n"
        "print('HEAVY', heavy, 'STATUS', status)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"HEAVY [] STATUS {status}", done.stderr


def test_the_lists_are_json_with_a_version(here: Any) -> None:
    spaces = here("spaces", "--json").plain
    assert spaces["schema_version"] == cli.SCHEMA_VERSION
    assert {row["name"] for row in spaces["spaces"]} == set(catalogue.files(catalogue.FAMILIES))
    for row in spaces["spaces"]:
        assert row["about"] and row["paper"] and row["trials"] > 0 and row["epochs"] > 0
    packaged = here("tasks", "--json").plain
    assert packaged["schema_version"] == cli.SCHEMA_VERSION
    assert {row["task"] for row in spaces["spaces"]} <= set(packaged["tasks"])
    assert here("status", "--json").plain == {"schema_version": 1, "command": "status", "runs": []}
    for verb in ("spaces", "tasks"):
        assert all(
            name in here(verb).out
            for name in (packaged["tasks"] if verb == "tasks" else catalogue.files(catalogue.FAMILIES))
        )


def test_what_is_said_of_a_space_is_what_it_is() -> None:
    """`spaces` reads the files without running them: the literals must be those of the loaded values."""
    for name, path in catalogue.files(catalogue.FAMILIES).items():
        space, glance = cli.load_space(name), catalogue.glance(path)
        said = (glance["name"], glance["task"], glance["trials"], glance["epochs"], glance["paper"])
        assert said == (space.name, space.task, space.budget.trials, space.budget.epochs, space.paper)


# ── a whole line ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_search_ends_with_a_verdict_a_report_and_a_bundle(finished: Finished) -> None:
    plain = finished.search.plain
    assert (plain["schema_version"], plain["command"], plain["run"]) == (1, "search", "first")
    assert re.search(r"KB .*mlp network, .* of the 30 test examples right", plain["verdict"]), plain["verdict"]
    assert plain["seconds"] > 0
    assert {kind: Path(path).suffix for kind, path in plain["report"].items()} == {
        "html": ".html", "md": ".md", "json": ".json"
    }  # fmt: skip
    folder = finished.desk.folder
    assert all((folder / path).stat().st_size > 500 for path in plain["report"].values())
    assert (folder / plain["bundle"] / "model.onnx").is_file()
    report = json.loads((folder / plain["report"]["json"]).read_text())
    assert report["verdict"] == plain["verdict"]
    config = json.loads((finished.run / "run.json").read_text())
    assert config["question"]["budget"]["trials"] == 2 and config["question"]["seed"] == 0


def test_progress_is_on_stderr_and_plain(finished: Finished) -> None:
    assert len(finished.search.out.splitlines()) == 1
    err = finished.search.err
    assert "run first in " in err and "2 of 2 trials" in err and "Promote: " in err
    assert "\x1b" not in err and "\r" not in err and "Traceback" not in err and "Warning" not in err


WITHOUT_TORCH = """
import sys, runpy
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "searchkit", "optuna", "sklearn", "scipy", "jinja2"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("script", ["verify.py", "run.py"])
def test_the_bundle_runs_without_torch(script: str, finished: Finished) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCH, str(finished.run / "bundle" / script)],
        cwd="/", capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    if script == "verify.py":
        assert done.stdout.splitlines()[-1] == "verified"


def test_the_bundle_says_what_was_measured(finished: Finished) -> None:
    manifest = json.loads((finished.run / "bundle" / "manifest.json").read_text())
    test = manifest["metric"]["test"]
    assert test["low"] <= test["value"] <= test["high"] and test["n"] > 0
    evidence = json.loads((finished.run / "evidence.json").read_text())
    assert evidence["chosen"] == manifest["artifact"]
    assert evidence["models"][-1]["metric"]["value"] == test["value"]


def test_an_existing_name_is_refused_and_resumed(finished: Finished, there: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished.run / "artifacts").rglob("*") if p.is_file()}
    refused = there(*TINY, "--name", "first", "--json", status=2)
    assert "A run named 'first' exists" in refused.err and "--resume first" in refused.err
    assert refused.plain == {"schema_version": 1, "error": refused.plain["error"], "exit_status": 2}
    resumed = there("search", "--resume", "first", "--json")
    assert resumed.plain["verdict"] == finished.search.plain["verdict"]
    assert "already done" in resumed.err
    assert {p: p.stat().st_mtime_ns for p in (finished.run / "artifacts").rglob("*") if p.is_file()} == before
    for flag, value in (("--seed", 0), ("--recipe", "compact"), ("--max-size", "1MB"), ("--executor", "inline")):
        assert f"leave out {flag}." in there("search", "--resume", "first", flag, value, status=2).err
    assert "--trials 1 is below the run's own 2" in there("search", "--resume", "first", "--trials", 1, status=2).err
    assert "no time budget" in there("search", "--resume", "first", "--time-budget", "1h", status=2).err
    assert "leave out --space" in there("search", "--resume", "first", "--space", "mlp", status=2).err
    assert "No run named 'frist'" in there("search", "--resume", "frist", status=2).err


def test_status_counts(finished: Finished, there: Any) -> None:
    plain = there("status", "first", "--json").plain
    (row,) = plain["runs"]
    assert (plain["schema_version"], row["run"], row["state"], row["of"]) == (1, "first", "shipped", 2)
    assert row["trials"] == 2 and {"Promote", "Export"} <= set(row["stages"])
    assert there("status").out.splitlines()[0].split()[:2] == ["first", "shipped"]
    assert "No run named 'none'" in there("status", "none", status=2).err


def test_report_again_is_the_same_page(finished: Finished, there: Any) -> None:
    first = finished.desk.folder / finished.search.plain["report"]["html"]
    plain = there("report", "first", "--reports", "again", "--json").plain
    assert Path(plain["report"]["html"]).read_text() == first.read_text()
    assert plain["verdict"] == finished.search.plain["verdict"]
    text = there("report", "first", "--reports", "again").out
    assert text.startswith(plain["verdict"]) and "again/first/report.html" in text


def test_bench_times_files(finished: Finished, there: Any) -> None:
    a, b = finished.run / "bundle" / "model_fp32.onnx", finished.run / "bundle" / "model.onnx"
    plain = there("bench", a, b, "--processes", "1", "--json").plain
    first, second = plain["models"]
    assert (first["file"], first["ratio"]) == (str(a), 1.0)
    assert second["low"] <= second["ratio"] <= second["high"]
    assert second["verdict"] in ("faster", "slower", "no difference")
    assert "none.onnx" in there("bench", a, "none.onnx", status=2).err


def test_export_copies_the_bundle_and_writes_over_nothing(finished: Finished, there: Any) -> None:
    plain = there("export", "first", "--to", "build/model", "--json").plain
    copy = finished.desk.folder / "build" / "model"
    assert plain["bundle"] == "build/model"
    bundle = finished.run / "bundle"
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {p.name: p.read_bytes() for p in bundle.iterdir()}
    refused = there("export", "first", "--to", "build/model", status=2)
    assert "--to 'build/model' exists" in refused.err


def test_export_of_a_trial_leaves_what_was_shipped(finished: Finished, there: Any) -> None:
    """Its bundle has a place of its own; bundle, evidence and report of the run stay as they are."""
    config = json.loads((finished.run / "run.json").read_text())
    before = {p: p.read_bytes() for p in finished.desk.folder.rglob("*") if p.is_file() and p.name != "lock"}
    plain = there("export", "first", "--trial", "1", "--json").plain
    assert (plain["command"], plain["run"], plain["trial"]) == ("export", config["name"], 1)
    bundle = finished.desk.folder / plain["bundle"]
    assert bundle == finished.run / "bundle-trial-1"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["recipe"][0]["number"] == 1 and manifest["run"] == "first"
    assert manifest["metric"]["test"] is None and manifest["metric"]["val"] > 0
    done = subprocess.run([sys.executable, str(bundle / "verify.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert there("export", "first", "--trial", "1", "--to", "one", "--json").plain["bundle"] == "one"
    assert {p: p.read_bytes() for p in before} == before
    assert "no finished trial 9" in there("export", "first", "--trial", "9", status=2).err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--prune-to", "0"), "--prune-to 0.0 leaves nothing"),
        (("--max-drop", "2"), "--max-drop 2.0 is not a drop"),
        (("--max-rise", "-1"), "--max-rise -1.0 is not a rise"),
        (("--recipe", "distil", "--student", "99"), "no finished trial 99"),
        (("--temperature", "0"), "A temperature of 0 softens nothing"),
        (("--teacher-weight", "2"), "A teacher's weight of 2 cannot be"),
        (("--ensemble", "0"), "An ensemble of 0 networks teaches nothing"),
        (("--prune-by", "luck"), "--prune-by 'luck' is not known; it is one of params, size, macs, latency"),
        (("--importance", "luck"), "--importance 'luck' is not known"),
        (("--reports", "/proc/reports"), "Cannot write the report to /proc/reports"),
    ],
    ids=str,
)
def test_compress_checks_what_search_checks(flags: tuple[str, ...], says: str, finished: Finished, there: Any) -> None:
    before = sorted(finished.run.rglob("*"))
    assert says in there("compress", "first", *flags, status=2).err
    assert sorted(finished.run.rglob("*")) == before


def test_a_damaged_run_hides_no_other(finished: Finished, there: Any) -> None:
    for name, text in (("torn", '{"format": 1, "na'), ("foreign", '{"format": 1, "name": "foreign"}')):
        (finished.run.parent / name).mkdir()
        (finished.run.parent / name / "run.json").write_text(text)
    try:
        rows = {row["run"]: row for row in there("status", "--json").plain["runs"]}
        assert {name: row["state"] for name, row in rows.items()} == {
            "first": "shipped", "torn": "damaged", "foreign": "damaged"
        }  # fmt: skip
        assert "is damaged" in rows["torn"]["reason"] and "'question'" in rows["foreign"]["reason"]
        assert "is damaged" in there("status", "torn", status=2).err
    finally:
        for name in ("torn", "foreign"):
            (finished.run.parent / name / "run.json").unlink()
            (finished.run.parent / name).rmdir()


def test_a_search_alone_then_any_trial_of_it(here: Any, tmp_path: Path) -> None:
    """--recipe none stops after the search; compress takes a trial on from there; what is shared is not done again."""
    searched = here(*TINY, "--name", "bare", "--recipe", "none", "--json").plain
    assert searched["metrics"]["accuracy"] > 0 and searched["trial"] in (0, 1)
    run = tmp_path / "runs" / "bare"
    assert not (run / "bundle").exists() and not (tmp_path / "reports").exists()
    other = 1 - searched["trial"]
    made = here("compress", "bare", "--trial", other, "--recipe", "export", "--json")
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    assert manifest["recipe"][0]["number"] == other and manifest["stages"] == ["Trial", "Promote", "Export"]
    assert made.plain["command"] == "compress" and (tmp_path / made.plain["report"]["html"]).is_file()
    again = here("compress", "bare", "--trial", other, "--recipe", "int8", "--json")
    assert "Promote: already done" in again.err
    assert "no finished trial 9" in here("compress", "bare", "--trial", "9", status=2).err
    assert "--recipe 'none' is not known here" in here("compress", "bare", "--recipe", "none", status=2).err


def test_a_search_that_ended_is_said_to_have(here: Any, tmp_path: Path) -> None:
    """searched: also where only some trials could be had; --resume raises the budget, and the run tells it."""
    here(*TINY, "--recipe", "none", "--name", "two")
    (row,) = here("status", "--json").plain["runs"]
    assert (row["state"], row["trials"], row["of"]) == ("searched", 2, 2)
    here("search", "--resume", "two", "--trials", "3", "--workers", "1", "--json")
    (row,) = here("status", "--json").plain["runs"]
    assert (row["state"], row["trials"], row["of"]) == ("searched", 3, 3)
    config = json.loads((tmp_path / "runs" / "two" / "run.json").read_text())
    assert config["command"][-2:] == ["--trials", "3"]
    assert config["changes"][0]["budget_before"]["trials"] == 2
    log = tmp_path / "runs" / "two" / "search.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"end"' not in line))
    config["question"]["budget"]["trials"] = 9
    (tmp_path / "runs" / "two" / "run.json").write_text(json.dumps(config))
    assert here("status", "--json").plain["runs"][0]["state"] == "searching"


def test_the_time_that_is_spent_is_not_given_again(here: Any, tmp_path: Path) -> None:
    here(*TINY, "--recipe", "none", "--name", "timed", "--time-budget", "1h")
    clock = tmp_path / "runs" / "timed" / "clock.json"
    spent = json.loads(clock.read_text())["seconds"]
    assert 0 < spent < 600
    clock.write_text('{"seconds": 3600}')
    done = here("search", "--resume", "timed", "--json")
    assert done.plain["trial"] in (0, 1)
    log = [json.loads(line) for line in (clock.parent / "search.jsonl").read_text().splitlines()]
    assert {row["trial"] for row in log if row["event"] == "dispatch"} == {0, 1}
    # no time is left, so the raised number of trials is not reached; with more time it is
    here("search", "--resume", "timed", "--trials", "3")
    assert here("status", "--json").plain["runs"][0]["trials"] == 2
    here("search", "--resume", "timed", "--time-budget", "2h")
    assert here("status", "--json").plain["runs"][0]["trials"] == 3
    assert json.loads(clock.read_text())["seconds"] > 3600


def test_ctrl_c_ends_with_a_sentence_and_the_run_goes_on(tmp_path: Path) -> None:
    """In the search, then in the stages; what is done is not done again."""
    run = tmp_path / "runs" / "mine"

    def interrupted(*arguments: str, when: tuple[Path, str]) -> str:
        """The last line of a call that gets Ctrl-C once the file holds the text."""
        file, text = when
        with open(tmp_path / "err", "w") as err, open(os.devnull, "w") as nowhere:
            words = [sys.executable, str(ROOT / "cli.py"), *arguments]
            process = subprocess.Popen(words, cwd=tmp_path, stdout=nowhere, stderr=err)
        while process.poll() is None and not (file.exists() and text in file.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        status, told = process.wait(timeout=60), (tmp_path / "err").read_text()
        assert status == 130 and "Traceback" not in told, told
        return told.splitlines()[-1]

    question = (
        "--space", "mlp", "--task", "iris", "--trials", "4", "--epochs", "60", "--rungs", "1", "--recipe", "export",
    )  # fmt: skip
    said = interrupted(
        "search", *question, "--executor", "inline", "--name", "mine", when=(run / "search.jsonl", '"trained"')
    )
    assert re.match(r"searchkit: Interrupted.*--resume mine", said), said
    done = {p.parent.name: p.stat().st_mtime_ns for p in run.glob("artifacts/*/artifact.json")}
    assert 1 <= len(done) < 4
    said = interrupted("search", "--resume", "mine", when=(tmp_path / "err", "Promote: started"))
    assert re.match(r"searchkit: Interrupted.*--resume mine", said), said
    assert not (run / "evidence.json").exists()
    last = Desk(tmp_path)("search", "--resume", "mine", "--json")
    assert (tmp_path / last.plain["bundle"] / "model.onnx").is_file()
    assert {n: (run / "artifacts" / n / "artifact.json").stat().st_mtime_ns for n in done} == done


def test_a_coordinator_without_a_trial_of_its_own_says_so(here: Any, tmp_path: Path) -> None:
    """Two runs share a study; the first had all of its trials."""
    shared = (*TINY, "--recipe", "none", "--name", "shared", "--storage", f"sqlite:///{tmp_path / 'study.db'}")
    here(*shared, "--runs", "one")
    done = here(*shared, "--runs", "two", status=2)
    assert "All 2 trials of the shared study were trained elsewhere" in done.err
    assert list((tmp_path / "two").iterdir()) == []


def test_no_candidate_over_the_limit_on_size_is_trained(here: Any, tmp_path: Path) -> None:
    from searchkit.run import Run
    from searchkit.search.results import history

    family = str(Path(__file__).parents[1] / "families" / "tiny.py")
    tiny = (
        "search",
        "--space",
        family,
        "--epochs",
        "1",
        "--recipe",
        "none",
        "--executor",
        "inline",
        "--sampler",
        "random",
    )
    here(*tiny, "--trials", "4", "--max-size", "5KB", "--name", "small")
    run = Run.open(tmp_path / "runs" / "small")
    trials = {row["number"]: row for row in history(run)}
    dispatched = {row["trial"] for row in run.lines("search.jsonl") if row["event"] == "dispatch"}
    breaching = {number for number, row in trials.items() if row["cost"]["size_bytes"] > 5000}
    assert breaching and len(dispatched) == 4
    assert dispatched & breaching == set()
    done = here(*tiny, "--trials", "4", "--max-size", "300B", "--name", "none", status=3)
    assert re.search(r"the smallest found \(widths=\[4\].*\) has a file of [\d,]+ bytes", done.err)
    assert not (tmp_path / "runs" / "none").exists()


def test_files_where_the_user_stands_shadow_nothing(tmp_path: Path) -> None:
    for name in ("random", "types", "numpy", "searchkit"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user was imported')\n")
    done = Desk(tmp_path)(
        "search", "--space", "mlp", "--task", "iris", "--trials", "1", "--epochs", "1", "--workers", "1",
        "--recipe", "export", "--json",
    )  # fmt: skip
    assert (tmp_path / done.plain["bundle"] / "model.onnx").is_file()


def test_a_password_reaches_neither_run_nor_command(tmp_path: Path) -> None:
    from searchkit import workflow
    from searchkit.cli import flags
    from searchkit.search.settings import SearchSettings
    from searchkit.tasks import registry

    url = "postgresql://me:s3cret@db.example/study"
    question = workflow.RunConfig("mlp", {"task": "iris"}, storage=flags.storage(url), workers=2)
    command = ["searchkit", "search", "--storage", url, f"--storage={url}"]
    run = workflow.start(question, registry.load({"task": "iris"}), root=tmp_path, name="run", command=command)
    assert workflow.settings_of(question) == SearchSettings(
        budget=question.budget, minimize="params", workers=2, executor="processes", plans_epochs=True, ship_int8=True,
        storage="postgresql://me@db.example/study",
    )  # fmt: skip
    assert all(b"s3cret" not in p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert run.config["command"][3:] == [question.storage, f"--storage={question.storage}"]


def test_a_crash_has_a_log_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.run import Run

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        cli.watch_for_crashes()
        sys.excepthook(RuntimeError, RuntimeError("planted"), None)
    err = capsys.readouterr().err
    logs = sorted(tmp_path.glob("searchkit-*.log"))
    assert len(logs) == 2 and all(str(log) in err and "planted" in log.read_text() for log in logs)
    assert "resume" not in err
    cli.watch_for_crashes(Run.create(tmp_path, "mine", {}))
    sys.excepthook(RuntimeError, RuntimeError("planted"), None)
    assert "--resume mine" in capsys.readouterr().err and "planted" in (tmp_path / "mine" / "error.log").read_text()


def test_workers_are_as_many_as_there_is_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from searchkit import workflow
    from searchkit.cli import flags

    monkeypatch.setattr(workflow, "cores", lambda: 16)
    assert (flags.workers(None, "inline"), flags.workers(None, "processes"), flags.workers(3, "ray")) == (1, None, 3)
    assert (workflow.default_workers("cpu"), workflow.default_workers("cuda")) == (16, 2)


def test_nothing_feasible_is_3_and_names_the_smallest(here: Any, tmp_path: Path) -> None:
    done = here(*TINY, "--max-params", "3", "--json", status=3)
    assert "smallest" in done.err
    assert done.plain["exit_status"] == 3
    assert list(tmp_path.rglob("weights.safetensors")) == []


def test_check_passes_a_sound_family_and_fails_a_broken_one_with_4(here: Any, tmp_path: Path) -> None:
    sound = (Path(__file__).parents[1] / "families" / "tiny.py").read_text()
    (tmp_path / "broken.py").write_text(sound.replace('"relu" else nn.Tanh()', '"relu" else nn.ReLU()'))
    done = here("check", "broken.py", "--json", status=4)
    plain = done.plain
    assert plain["exit_status"] == 4 and "every_parameter_matters" in plain["error"]
    failed = {row["check"]: row["detail"] for row in plain["results"] if row["outcome"] == "failed"}
    assert list(failed) == ["every_parameter_matters"], failed
    assert "activation=" in failed["every_parameter_matters"]
    assert "1 of " in done.err and "every_parameter_matters" in done.err


def test_own_data_and_own_family(here: Any, tmp_path: Path) -> None:
    """A table and a family's file of the user's own, with a limit that turns candidates away."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 3))
    words = np.where(rows[:, 0] + rows[:, 1] > 0, "yes", "no")
    lines = [",".join([*(f"{v:.3f}" for v in row), word]) for row, word in zip(rows, words, strict=True)]
    (tmp_path / "mine.csv").write_text("a,b,c,answer\n" + "\n".join(lines) + "\n")
    (tmp_path / "family.py").write_text((Path(__file__).parents[1] / "families" / "tiny.py").read_text())
    done = here(
        "search", "--space", "./family.py", "--data", "mine.csv", "--target", "answer", "--max-params", "200",
        "--trials", "2", "--epochs", "4", "--rungs", "1", "--workers", "1", "--executor", "inline",
        "--recipe", "export", "--json", "--name", "own",
    )  # fmt: skip
    run = tmp_path / "runs" / "own"
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    assert manifest["labels"] == ["no", "yes"] and manifest["params"] <= 200
    metrics = [json.loads(p.read_text())["metrics"] for p in run.glob("artifacts/*/artifact.json")]
    sizes = [row["params"] for row in metrics if "params" in row]  # a bundle's artifact is a file alone
    assert len(sizes) >= 2 and max(sizes) <= 200
    assert re.search(r"rows +120: train 82, val 14, test 24", done.err)
    assert re.search(r"predicts +one of 2 classes: no \(65\), yes \(55\)", done.err)


def test_the_terminal_gets_colours_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.cli.console import Console

    for wanted in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1") if wanted else monkeypatch.setenv("NO_COLOR", "1")
        if wanted:
            monkeypatch.delenv("NO_COLOR")
        console = Console()
        console.terminal.print("[red]text[/red]")
        assert ("\x1b[31m" in capsys.readouterr().err) == wanted


def test_what_comes_from_data_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.cli.console import Console, describe
    from searchkit.search.settings import Status

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    console = Console()
    foreign = "[red]class[/red] :smile: [/nothing] \x1b[31m"
    console.say(foreign)
    console.progress(Status(1, 4, 1, 0, 0, 0.5, note=foreign))
    console.close()
    err = capsys.readouterr().err
    assert err.count("[red]class[/red] :smile: [/nothing] [31m") >= 2
    assert "\x1b[31mclass" not in err
    assert describe(Status(1, 4, 1, 0, 0, 0.5, seconds_to_go=120)) == "1 of 4 trials · best 0.5 · about 2 min left"
    assert describe(Status(1, 4, 1, 0, 0, 0.5, 60.0, 120)) == "1 of 4 trials · best 0.5 · 60 s left"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores a process may use")
def test_workers_are_as_many_as_the_cores_that_may_be_used() -> None:
    from searchkit.workflow import cores, default_workers

    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == default_workers("cpu") == default_workers("cuda") == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == default_workers("cpu") == len(before)


@pytest.mark.parametrize("width", [80, 120])
def test_the_data_summary_wraps_between_what_it_counts(width: int) -> None:
    """No line is longer than the terminal, none ends within a number, and joined they say the same."""
    words = "one of 10 classes: " + ", ".join(f"label{i} ({i * 977:,})" for i in range(40)) + " and 1,234 more"
    rows = wrapped("  predicts     ", words, width)
    assert len(rows) > 3 and max(map(len, rows)) <= width
    assert all(row.startswith("  predicts     " if n == 0 else " " * 15) for n, row in enumerate(rows))
    assert " ".join(row[15:] for row in rows) == words
    assert not any(re.match(r"[(\d]", row[15:]) for row in rows), "a count has left what it counts"


def test_a_word_longer_than_the_line_is_cut_and_nothing_is_lost() -> None:
    rows = wrapped("  data         ", "x" * 200, 80)
    assert max(map(len, rows)) <= 80 and "".join(row[15:] for row in rows) == "x" * 200


def test_costs_are_written_as_people_read_them() -> None:
    said = [show_cost("macs", n) for n in (15, 999.6, 13_390, 999_499, 999_500, 7.9e8, 2.5e13)]
    assert said == ["15 MACs", "1k MACs", "13.4k MACs", "999k MACs", "1M MACs", "790M MACs", "25T MACs"]
    assert show_cost("params", 15_931) == "15.9k parameters" and show_cost("size_bytes", 97_235) == "a file of 97.2 KB"
    assert show_cost("latency_ms", 0.0134) == "0.0134 ms"


def test_the_training_setting_is_explained() -> None:
    said = describe_setting("bf16", True, timed=True)
    assert said.startswith("training in bf16: products in 16-bit bfloat16, weights and updates in 32 bits")
    assert "channels last in memory" in said and said.endswith("the quickest setting on this device")
    assert describe_setting("fp32", False, timed=False) == "training in fp32: 32-bit numbers throughout"
