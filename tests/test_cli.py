"""The command line as a user runs it: a whole line on a tiny question, every verb on what it left, and what is said.

In this process where the exit status and the text are the matter; in one of its own where it must be: what is imported,
a bundle without PyTorch. Bad input is in test_cli_errors.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from searchkit import catalogue

ROOT = Path(__file__).parents[1]
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
    assert {row["name"] for row in spaces["spaces"]} == set(catalogue.files(cli.SPACES))
    for row in spaces["spaces"]:
        assert row["about"] and row["paper"] and row["trials"] > 0 and row["epochs"] > 0
    tasks = here("tasks", "--json").plain
    assert tasks["schema_version"] == cli.SCHEMA_VERSION
    assert {row["task"] for row in spaces["spaces"]} <= set(tasks["tasks"])
    assert here("status", "--json").plain == {"schema_version": 1, "command": "status", "runs": []}
    for verb in ("spaces", "tasks"):
        assert all(
            name in here(verb).out for name in (tasks["tasks"] if verb == "tasks" else catalogue.files(cli.SPACES))
        )


def test_what_is_said_of_a_space_is_what_it_is() -> None:
    """`spaces` reads the files without running them: the literals must be those of the loaded values."""
    for name, path in catalogue.files(cli.SPACES).items():
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


def test_nothing_feasible_is_3_and_names_the_smallest(here: Any, tmp_path: Path) -> None:
    done = here(*TINY, "--max-params", "3", "--json", status=3)
    assert "smallest" in done.err
    assert done.plain["exit_status"] == 3
    assert list(tmp_path.rglob("weights.safetensors")) == []


def test_check_passes_a_sound_family_and_fails_a_broken_one_with_4(here: Any, tmp_path: Path) -> None:
    sound = (Path(__file__).parent / "families" / "tiny.py").read_text()
    (tmp_path / "broken.py").write_text(sound.replace('"relu" else nn.Tanh()', '"relu" else nn.ReLU()'))
    done = here("check", "broken.py", "--json", status=4)
    plain = json.loads(done.out.splitlines()[0])
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
    (tmp_path / "family.py").write_text((Path(__file__).parent / "families" / "tiny.py").read_text())
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
    assert re.search(r"rows +train 82, val 14, test 24", done.err)
    assert re.search(r"classes +no 65, yes 55", done.err)


def test_the_terminal_gets_colours_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.console import Console

    for wanted in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1") if wanted else monkeypatch.setenv("NO_COLOR", "1")
        if wanted:
            monkeypatch.delenv("NO_COLOR")
        console = Console()
        console.terminal.print("[red]text[/red]")
        assert ("\x1b[31m" in capsys.readouterr().err) == wanted
