"""The report as Markdown: the same numbers with the same conditions, for a repository or a terminal.

Strings from outside are escaped here too: a Markdown reader that lets HTML through must find none of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from searchkit.core.serialization import JSON
from searchkit.report.html import cells, environment, template


def render(found: Mapping[str, JSON]) -> str:
    """The page. found: report.json."""
    made = environment(autoescape=False)
    # jinja2 can autoescape for HTML only; it calls finalize on every value, and not on the template's own text.
    made.finalize = _finalize
    text = made.from_string(template("template.md.j2")).render(r=found, **cells(found))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _finalize(value: object) -> object:
    return escaped(value) if isinstance(value, str) else value


def escaped(text: str) -> str:
    """One line, in which no character is markup to Markdown or HTML."""
    flat = " ".join(text.split())
    # The ampersand first, for the other two bring one with them.
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]#])", r"\\\1", flat)
