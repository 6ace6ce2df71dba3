"""Searches by the command line: stopped, resumed, limited, shared, and on the user's own data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, TINY, Desk

from searchkit.cli import opening


def test_a_search_alone_then_any_trial_of_it(here: Any, tmp_path: Path) -> None:
    """--recipe none stops after the search; compress takes a trial on from there; what is shared is not done again."""
    searched = here(*TINY, "--name", "bare", "--recipe", "none", "--json").plain
    assert searched["metrics"]["accuracy"] > 0 and searched["trial"] in (0, 1)
    run = tmp_path / "runs" / "bare"
    assert not (run / "bundle").exists() and not (run / "report").exists()
    other = 1 - searched["trial"]
    made = here("compress", "bare", "--trial", other, "--recipe", "export", "--json")
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    assert manifest["recipe"][0]["number"] == other and manifest["stages"] == ["Trial", "Promote", "Export"]
    assert made.plain["command"] == "compress" and (tmp_path / made.plain["report"]["html"]).is_file()
    again = here("compress", "bare", "--trial", other, "--recipe", "int8", "--json")
    assert "Promote: already done" in again.err
    assert "no finished trial 9" in here("compress", "bare", "--trial", "9", status=2).err
    assert (
        "--recipe 'none' compresses nothing; choose compact, int8"
        in here("compress", "bare", "--recipe", "none", status=2).err
    )


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
    config["config"]["budget"]["trials"] = 9
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


def test_a_password_reaches_neither_run_nor_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from searchkit import lifecycle, workflow
    from searchkit.config.run import RunConfig
    from searchkit.core.space import Budget
    from searchkit.search.settings import SearchSettings
    from searchkit.tasks import registry

    url = "postgresql://me:s3cret@db.example/study"
    monkeypatch.setenv("SEARCHKIT_STORAGE", "")
    asked = RunConfig.from_options(space="mlp", task="iris", storage=url, workers=2)
    config = lifecycle.resolve(asked, opening.load_space("mlp"))
    assert os.environ["SEARCHKIT_STORAGE"] == url
    command = ["searchkit", "search", "--storage", url, f"--storage={url}"]
    run = lifecycle.start(config, registry.load({"task": "iris"}), root=tmp_path, name="run", command=command)
    budget = opening.load_space("mlp").budget
    assert budget != Budget()
    assert workflow.settings_of(config) == SearchSettings(
        budget=budget, minimize="params", workers=2, executor="processes", plans_epochs=True, ship_int8=True,
        storage="postgresql://me@db.example/study",
    )  # fmt: skip
    assert all(b"s3cret" not in p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert run.config["command"][3:] == [config.search.storage, f"--storage={config.search.storage}"]


def test_nothing_feasible_is_3_and_names_the_smallest(here: Any, tmp_path: Path) -> None:
    done = here(*TINY, "--max-params", "3", "--json", status=3)
    assert "smallest" in done.err
    assert done.plain["exit_status"] == 3
    assert list(tmp_path.rglob("weights.safetensors")) == []


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
