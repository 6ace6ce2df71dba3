"""The configuration described: a commented TOML file with every default, a JSON schema, and a page of documentation.

Run as a module with the path of the page, it writes the page's list of options again.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from searchkit.config.naming import plain_number
from searchkit.config.options import KINDS, Option, default_of, options
from searchkit.config.run import SECTIONS

WIDTH = 100

HEADING = """\
# The configuration of searchkit: `searchkit search --config THIS_FILE`.
# A flag overrides an environment variable (SEARCHKIT_MAX_SIZE), which overrides this file.
# Remove the # before a key to set it. Paths are relative to the folder of this file.
"""

TITLES = {
    "data": "Where the data come from, and what is to be predicted.",
    "search": "How to search.",
    "budget": "How much the search may spend.",
    "limits": "Hard limits on what is shipped.",
    "compression": "What happens to the winner.",
    "output": "Where the results go.",
}


def to_toml() -> str:
    """A TOML file with every option, its help and its default; options that have no fixed default are comments."""
    parts = [HEADING]
    for table, section in SECTIONS.items():
        parts.append(f"# {TITLES[table]}\n[{table}]")
        for declared, about in options(section):
            default = default_of(declared)
            parts.append("\n".join([*_comment(about, default), _line(declared.name, about, default)]))
    return "\n\n".join(parts) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of the TOML file's tables, of draft 2020-12."""
    tables = {}
    for table, section in SECTIONS.items():
        own = {f.name: _schema_of(about, default_of(f)) for f, about in options(section)}
        tables[table] = {
            "type": "object",
            "description": TITLES[table],
            "properties": own,
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of searchkit",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
    }


def _comment(about: Option, default: object) -> list[str]:
    words = about.help
    if allowed := about.allowed():
        words += f" Choices: {', '.join(allowed)}."
    if default is None:
        words += " Required." if about.usual == "required" else f" Default: {about.usual}."
    # A flag such as --max-size stays on one line.
    return [f"# {line}" for line in textwrap.wrap(words, WIDTH - 2, break_on_hyphens=False)]


def _line(name: str, about: Option, default: object) -> str:
    if default is not None:
        return f"{name} = {json.dumps(default)}"  # TOML writes such values as JSON does
    return f"# {name} = {example_of(about)}"


def example_of(about: Option) -> str:
    """The example of an option as TOML writes it."""
    # Some examples are quoted for the shell.
    example = about.example.strip("'")
    return example if about.kind in ("whole", "number") else json.dumps(example)


def _schema_of(about: Option, default: object) -> dict[str, Any]:
    types = KINDS[about.kind][2]
    found: dict[str, Any] = {"description": about.help, "type": types[0] if len(types) == 1 else list(types)}
    if allowed := about.allowed():
        found["enum"] = list(allowed)
    if about.low is not None:
        found["exclusiveMinimum" if about.above else "minimum"] = about.low
    if about.high is not None:
        found["exclusiveMaximum" if about.below else "maximum"] = about.high
    if default is not None:
        found["default"] = default
    if about.example:
        found["examples"] = [json.loads(example_of(about))]
    return found


def to_markdown() -> str:
    """Tables of every option, one for each section: flag, help, default and example."""
    parts = []
    for table, section in SECTIONS.items():
        rows = [f"### [{table}]", "", TITLES[table], "", "| flag | sets | default | example |", "|---|---|---|---|"]
        for declared, about in options(section):
            default = default_of(declared)
            words = about.help + (f" Choices: {', '.join(about.allowed())}." if about.allowed() else "")
            shown = about.usual if default is None else f"`{plain_number(default)}`"
            rows.append(f"| `--{declared.name.replace('_', '-')}` | {words} | {shown} | `{about.example}` |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


OPTIONS = "## Options\n\n"
"""The heading of the page below which the tables stand, to its end."""


def rewrite(page: Path) -> None:
    """Write the tables of a page of documentation again, and leave what stands above them."""
    above = page.read_text(encoding="utf-8").split(OPTIONS)[0]
    page.write_text(above + OPTIONS + to_markdown(), encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
