"""The verb config: a configuration file to begin with, and its schema."""

from __future__ import annotations

import json
from typing import Annotated

from searchkit.cli.options import AsJson, shared
from searchkit.cli.output import emit
from searchkit.config import document

EXAMPLES = (
    "searchkit config > my.toml",
    "searchkit config --schema > searchkit.schema.json",
    "searchkit search --config my.toml --max-size 50KB",
)

Schema = Annotated[bool, shared("--schema", metavar="", help="Print the JSON schema of the file instead.")]


def config(schema: Schema = False, as_json: AsJson = False) -> None:
    """Print a commented TOML file with every option and its default.

    Options count in this order: flags, environment variables such as SEARCHKIT_MAX_SIZE, the file, the defaults.
    """
    if schema:
        found = document.schema()
        emit(as_json, "config", {"schema": found}, json.dumps(found, indent=2))
    else:
        text = document.to_toml()
        emit(as_json, "config", {"toml": text}, text.rstrip())
