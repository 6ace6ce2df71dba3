"""The verb check: the conformance suite on a family."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from searchkit.cli.opening import load_space
from searchkit.cli.options import AsJson, shared
from searchkit.cli.output import emit, plain_of
from searchkit.core.serialization import JSON

EXAMPLES = ("searchkit check my_family.py", "searchkit check spaces/cnn.py", "searchkit check my_family.py --json")

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Path of a file that defines a family as SPACE, or the name of a family.",
        show_default=False,
    ),
]
Task = Annotated[
    str | None,
    shared(
        "--task", metavar="TEXT", help="Name of the embedded task to check with. Default: the family's. Example: iris."
    ),
]


def check(file: File, task: Task = None, as_json: AsJson = False) -> None:
    """Check that a family keeps what the search and the stages rely on.

    Each check is listed with its verdict; status 4 if one fails.
    """
    from searchkit.core.errors import GateFailed
    from searchkit.tasks import registry
    from searchkit.testing.suite import run_checks

    family = load_space(str(file))
    results = run_checks(family, registry.load({"task": task or family.task}), path=file)
    failed = [r for r in results if r.outcome == "failed"]
    text = "\n".join(f"{r.outcome:<8} {r.check:<28} {r.detail}" for r in results)
    plain: dict[str, JSON] = {"space": family.name, "results": [plain_of(r) for r in results]}
    if failed:
        error = f"{len(failed)} of {len(results)} checks failed for '{family.name}', the first: {failed[0].check}."
        plain |= {"error": error, "exit_status": GateFailed.exit_status}
    emit(as_json, "check", plain, text)
    if failed:
        print(f"searchkit: {error}", file=sys.stderr)
        raise typer.Exit(GateFailed.exit_status)
