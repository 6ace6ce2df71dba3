"""What the command line shows on stderr while a run works: the API's progress, and a summary of the data before it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from searchkit.api.progress import Progress, Terminal
from searchkit.core.serialization import JSON

NO_BREAK = "\N{NO-BREAK SPACE}"


class Console(Progress):
    """Progress on stderr; results and errors are not its business.

    Args:
        quiet: whether to show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__("none" if quiet else "rich", logs=False)

    def summary(self, name: str, found: Mapping[str, JSON]) -> None:
        """Show what was found in the data, before any training."""
        if not isinstance(self.display, Terminal):
            return
        from searchkit.data.summary import describe as describe_data

        self.say(f"task {name}")
        for what, words in describe_data(found).items():
            for row in wrapped(f"  {what:<12} ", words, self.display.console.width):
                self.say(row)


def wrapped(label: str, words: str, width: int) -> list[str]:
    """The words after their label, in lines of at most `width`, indented under the first word.

    A count stays with what it counts, and nothing is cut within a word unless that word alone is longer than a line.
    """
    # No line break before a number or a parenthesis, unless a comma, a semicolon or a colon stands before it.
    together = re.sub(r"(?<![,;:]) (?=[(\d])", NO_BREAK, words)
    indent = " " * len(label)
    lines = textwrap.wrap(
        together, max(width, len(label) + 20), initial_indent=label, subsequent_indent=indent, break_on_hyphens=False
    )
    return [row.replace(NO_BREAK, " ") for row in lines]
