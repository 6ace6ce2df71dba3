"""The verb tasks: the embedded data sets."""

from __future__ import annotations

from searchkit.cli.options import AsJson
from searchkit.cli.output import emit

EXAMPLES = ("searchkit tasks", "searchkit tasks --json", "searchkit search --space mlp --task wine")


def tasks(as_json: AsJson = False) -> None:
    """List the embedded tasks, which need no file and no download."""
    from searchkit.tasks.registry import names, schemes

    found, more = names(), schemes()
    rows = found | {f"{prefix}:NAME": about for prefix, about in more.items()}
    width = max(map(len, rows))
    text = "\n".join(f"{name:<{width}}  {about}" for name, about in rows.items())
    emit(as_json, "tasks", {"tasks": found, "schemes": more}, text)
