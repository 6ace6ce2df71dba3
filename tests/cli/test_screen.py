"""What a person sees: progress, colors, crashes; the number of workers; the verb check."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from searchkit.cli import crashes
from searchkit.cli.console import wrapped
from searchkit.core.quantities import show_cost
from searchkit.search.plan_words import describe_setting
from searchkit.search.settings import Status


def test_a_crash_has_a_log_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.run import Run

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(crashes.tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        crashes.watch_for_crashes()
        sys.excepthook(RuntimeError, RuntimeError("planted"), None)
    err = capsys.readouterr().err
    logs = sorted(tmp_path.glob("searchkit-*.log"))
    assert len(logs) == 2 and all(str(log) in err and "planted" in log.read_text() for log in logs)
    assert "resume" not in err
    crashes.watch_for_crashes(Run.create(tmp_path, "mine", {}))
    sys.excepthook(RuntimeError, RuntimeError("planted"), None)
    assert "--resume mine" in capsys.readouterr().err and "planted" in (tmp_path / "mine" / "error.log").read_text()


def test_workers_are_as_many_as_there_is_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from searchkit import machine

    monkeypatch.setattr(machine, "cores", lambda: 16)
    assert (machine.default_workers("cpu"), machine.default_workers("cuda")) == (16, 2)


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


def test_the_terminal_gets_colors_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.cli.console import Console

    for wanted in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1") if wanted else monkeypatch.setenv("NO_COLOR", "1")
        if wanted:
            monkeypatch.delenv("NO_COLOR")
        console = Console()
        console.display.console.print("[red]text[/red]")
        assert ("\x1b[31m" in capsys.readouterr().err) == wanted


def test_what_comes_from_data_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from searchkit.api.progress import describe
    from searchkit.cli.console import Console

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


def test_the_command_line_shows_a_line_once(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its -v shows the log on the same stderr, so what is shown does not go to the log as well."""
    from searchkit.cli.console import Console

    caplog.set_level(logging.INFO, logger="searchkit")
    console = Console()
    console.say("Prune: started")
    console.progress(Status(1, 1, 0, 0, 0, 0.5))
    assert capsys.readouterr().err.splitlines() == ["Prune: started", "1 of 1 trials · best 0.5"]
    assert [record.getMessage() for record in caplog.records] == []


def test_plain_lines_come_at_most_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes and the last trial do not wait; a line of which nothing changed does not come again."""
    from searchkit.api import progress

    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.Progress("plain", logs=False)
    lines: list[tuple[float, str]] = []
    for second, done, note in (
        (0, 1, ""),
        (4.9, 2, ""),
        (5, 3, ""),
        (9, 4, "a note"),
        (10, 5, ""),
        (20, 4, ""),
        (21, 6, ""),
    ):
        now = 100.0 + second
        shown.progress(Status(done, 6, 1, 0, 0, None, note=note))
        lines += [(second, line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        (0, "1 of 6 trials"), (5, "3 of 6 trials"), (9, "4 of 6 trials · a note"), (21, "6 of 6 trials"),
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores a process may use")
def test_workers_are_as_many_as_the_cores_that_may_be_used() -> None:
    from searchkit.machine import cores, default_workers

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


def test_the_data_summary_wraps_between_labels_that_are_numbers() -> None:
    words = "one of 40 classes: " + ", ".join(f"{i} ({i * 977:,})" for i in range(40))
    rows = wrapped("  predicts     ", words, 80)
    assert " ".join(row[15:] for row in rows) == words and max(map(len, rows)) <= 80
    assert all(row.endswith(",") for row in rows[:-1])


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
