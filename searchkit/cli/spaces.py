"""The verb spaces: the families of networks."""

from __future__ import annotations

from searchkit.cli.options import AsJson
from searchkit.cli.output import emit
from searchkit.core import catalogue

EXAMPLES = ("searchkit spaces", "searchkit spaces --json", "searchkit search --space cnn   # one of them")


def spaces(as_json: AsJson = False) -> None:
    """List the families of networks, with their default task and budget."""
    rows = [catalogue.glance(path) for path in catalogue.files(catalogue.FAMILIES).values()]
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{row['name']:<{width}}  {row['about']}\n"
        f"{'':<{width}}  default: {row.get('task')}, {row.get('trials')} trials of at most {row.get('epochs')} epochs"
        for row in rows
    ]
    emit(as_json, "spaces", {"spaces": rows}, "\n".join(lines))
