"""What is said without work: the help of every verb, and the lists of families and tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import ROOT

from searchkit import __version__
from searchkit.cli import app as cli
from searchkit.cli import opening
from searchkit.cli.options import FIRST, MOST_USED
from searchkit.cli.output import SCHEMA_VERSION
from searchkit.config.run import every_option
from searchkit.core import catalogue

GROUP: Any = typer.main.get_command(cli.app)
VERBS = ("search", "compress", "report", "export", "bench", "status", "spaces", "tasks", "config", "check")


def options_of(verb: str) -> Iterator[Any]:
    """The options and arguments of a verb that its help shows."""
    command = GROUP.commands[verb]
    for param in [*command.params, command.get_help_option(typer.Context(command))]:
        if not getattr(param, "hidden", False):
            yield param


EVERY = [(verb, param) for verb in VERBS for param in options_of(verb)]

NOUNS_AND_VERBS = (
    "Address Algorithm Classes Column Cost Criterion Device Earlier Encoding Executor Family Features Folder Form GPUs "
    "Largest Length Log Maximum Name Noise Number Path Paths Pattern Print Problem Recipe Seed Share Show Sizes Source "
    "Temperature Time Timestamp TOML Trained Unit URL Weight"
).split()
"""The words that a help text may begin with: what the option sets, or what it does."""


@pytest.mark.parametrize(("verb", "param"), EVERY, ids=[f"{verb} {param.name}" for verb, param in EVERY])
def test_no_help_is_a_fragment(verb: str, param: Any) -> None:
    """Every option of every verb says what it sets, in sentences, with its default and an example."""
    text = param.help
    assert text.split()[0].rstrip(":;,") in NOUNS_AND_VERBS, text
    assert text.endswith(".") and ".." not in text and "  " not in text
    assert not re.search(r"\b(where|such as [^,.]*\.)$", text), "ends in the middle"
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", text):
        assert sentence[0].isupper() or sentence[0] in "`-" or sentence.startswith("searchkit"), sentence
    takes_a_value = param.param_type_name == "option" and not (param.is_flag or param.count)
    if takes_a_value:
        assert "Default: " in text or "Required." in text, text
        assert "Example: " in text, text


def test_the_test_of_fragments_finds_those_of_the_last_release() -> None:
    for text in ("Such as 50k.", "Of a series.", "To take off again, such as gaussian:0.5.", "The same for an error."):
        assert text.split()[0] not in NOUNS_AND_VERBS


def test_every_option_of_the_configuration_is_a_flag_of_search_or_compress() -> None:
    flags = {flag for verb in ("search", "compress") for param in options_of(verb) for flag in param.opts}
    assert {"--" + field.name.replace("_", "-") for _, field, _ in every_option()} <= flags


def test_the_ten_most_used_options_come_first(here: Any) -> None:
    shown = [param.name for param in options_of("search") if param.rich_help_panel == MOST_USED]
    assert shown == list(FIRST) and len(shown) == 10
    panels = re.findall(r"─ ([A-Z][A-Za-z ]+) ─", here("search", "--help").out)
    assert panels == ["Most used", "Data", "Search", "Budget", "Limits", "Compression", "Output"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_80_columns(verb: str, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer, and no example is broken in two."""
    monkeypatch.setenv("COLUMNS", "80")
    text = here(verb, "--help").out
    assert max(map(len, text.splitlines())) <= 80
    examples = text.split("Examples:")[1].split("Exit status")[0].strip().splitlines()
    assert len(examples) == 3 and all("searchkit" in line for line in examples), examples
    assert "…" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_flags_of_the_examples_exist(verb: str, here: Any) -> None:
    """An example that is refused teaches the wrong thing."""
    options, examples = here(verb, "--help").out.split("Examples:")
    assert sum(f"searchkit {verb}" in line for line in examples.splitlines()) >= 2 and "--json" in options
    for flag in re.findall(r"--[a-z-]+", "\n".join(x for x in examples.splitlines() if f"searchkit {verb} " in x)):
        assert flag in options, f"the example of {verb} uses {flag}"


def test_help_names_every_verb_and_the_exit_statuses(here: Any) -> None:
    text = here("--help").out
    assert set(re.findall(r"^│ ([a-z]+) {2,}\S", text.split("Commands")[1], re.MULTILINE)) == set(VERBS)
    assert re.sub(r"\s+", " ", text).count(cli.EXIT_STATUSES) == 1
    assert "--install-completion" in text
    assert here("--version").out.strip() == __version__
    assert "Usage: searchkit" in here(status=2).out


def test_shell_completion_is_written() -> None:
    environment = {**os.environ, "_SEARCHKIT_COMPLETE": "source_bash"}
    done = subprocess.run([sys.executable, str(ROOT / "cli.py")], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "complete -o default -F _searchkit_completion searchkit" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["search", "--help"], 0),
        (["spaces"], 0),
        (["config"], 0),
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
    assert spaces["schema_version"] == SCHEMA_VERSION
    assert {row["name"] for row in spaces["spaces"]} == set(catalogue.files(catalogue.FAMILIES))
    for row in spaces["spaces"]:
        assert row["about"] and row["paper"] and row["trials"] > 0 and row["epochs"] > 0
    packaged = here("tasks", "--json").plain
    assert packaged["schema_version"] == SCHEMA_VERSION
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
        space, glance = opening.load_space(name), catalogue.glance(path)
        said = (glance["name"], glance["task"], glance["trials"], glance["epochs"], glance["paper"])
        assert said == (space.name, space.task, space.budget.trials, space.budget.epochs, space.paper)
