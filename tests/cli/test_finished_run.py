"""A whole run on a tiny task, and every verb on what it left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY, Finished
from isolated_python import python


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
    assert config["config"]["budget"]["trials"] == 2 and config["config"]["search"]["seed"] == 0


def test_progress_is_on_stderr_and_plain(finished: Finished) -> None:
    assert len(finished.search.out.splitlines()) == 1
    err = finished.search.err
    assert "run first in " in err and "2 of 2 trials" in err and "Promote: " in err
    assert "\x1b" not in err and "\r" not in err and "Traceback" not in err and "Warning" not in err


def test_the_profile_says_where_the_seconds_went(finished: Finished) -> None:
    found = json.loads((finished.run / "profile.json").read_text())
    parts = {
        "start/import", "start/data", "search/time plan", "search/look at the space", "search/cost checks",
        "search/proposals", "search/training", "search/validation", "compression/Promote", "compression/Export",
        "evaluation/scoring and latency", "evaluation/report",
    }  # fmt: skip
    assert all(
        any(path.startswith(part.split("/")[0]) and path.endswith(part.split("/")[1]) for path in found["seconds"])
        for part in parts
    )
    assert 0.8 * found["wall_seconds"] < sum(found["seconds"].values()) <= found["wall_seconds"]
    assert "\npart " in finished.search.err and "of work in" in finished.search.err


def test_a_profile_is_of_no_run_that_is_gone(there: Any, finished: Finished) -> None:
    """Nothing fits the limit, so the run is removed, and its profile with it: one sentence, no traceback."""
    found = there(*TINY, "--name", "nothing", "--max-params", 1, "--profile", status=3)
    assert "Traceback" not in found.err and not (finished.desk.folder / "runs" / "nothing").exists()


@pytest.mark.parametrize("script", ["verify.py", "run.py"])
def test_the_bundle_runs_without_torch(script: str, finished: Finished) -> None:
    done = python(finished.run / "bundle" / script)
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
    assert evidence["models"][-1]["metric"] == test
    quantized, exported = evidence["models"][-2:]  # two artifacts, one file: the report shows the first of them
    assert evidence["files"][quantized["id"]] == evidence["files"][exported["id"]]
    for name in ("metric", "difference", "agreement", "latency"):
        assert quantized[name] == exported[name], name


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
        assert f"leave out {flag}. With it go" in there("search", "--resume", "first", flag, value, status=2).err
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
    order = ["Promote", "Distill", "Prune", "Quantize", "Export"]
    assert row["stages"] == [stage for stage in order if stage in row["stages"]], "in the order of work"
    told = there("status", "first").out
    assert re.search(r"space +mlp", told) and re.search(r"best +trial [01]: val accuracy [\d.]+ %", told)
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
        (("--prune-to", "0"), "--prune-to 0 is out of range; give a number that is above 0"),
        (("--max-drop", "2"), "--max-drop 2 is out of range; give a number that is at least 0 and below 1"),
        (("--max-rise", "-1"), "--max-rise -1 is out of range; give a number that is at least 0"),
        (("--recipe", "distill", "--student", "99"), "no finished trial 99"),
        (("--temperature", "0"), "--temperature 0 is out of range; give a number that is above 0"),
        (
            ("--teacher-weight", "2"),
            "--teacher-weight 2 is out of range; give a number that is at least 0 and at",
        ),
        (("--ensemble", "0"), "--ensemble 0 is out of range; give a whole number that is at least 1"),
        (("--prune-by", "luck"), "--prune-by 'luck' is unknown; choose latency, size, macs or params"),
        (("--importance", "luck"), "--importance 'luck' is unknown"),
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
        assert "is damaged" in rows["torn"]["reason"] and "the field 'task' is missing" in rows["foreign"]["reason"]
        assert "is damaged" in there("status", "torn", status=2).err
    finally:
        for name in ("torn", "foreign"):
            (finished.run.parent / name / "run.json").unlink()
            (finished.run.parent / name).rmdir()
