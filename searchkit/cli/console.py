"""What a person sees while a run works, on stderr: one live line on a terminal, plain lines elsewhere.

rich does the terminal, and honours NO_COLOR. The plain lines come when something changed, and at most every few
seconds, so that a log of a night's search stays readable.
"""

from __future__ import annotations

import math
import re
import textwrap
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console as Terminal
from rich.text import Text

from searchkit.core.quantities import show_seconds
from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    from rich.status import Status as Spinner

    from searchkit.search.settings import Status

PLAIN_LINE_SECONDS = 5.0

NO_BREAK = "\N{NO-BREAK SPACE}"


class Console:
    """Progress on stderr; results and errors are not its business.

    Args:
        quiet: whether to show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.terminal = Terminal(stderr=True, quiet=quiet, highlight=False)
        self.spinner: Spinner | None = None
        self.last = (-1, -math.inf)  # trials done, when that was said

    def say(self, text: str) -> None:
        """Show one line that stays."""
        self.terminal.print(_verbatim(text), soft_wrap=True)

    def summary(self, name: str, found: Mapping[str, JSON]) -> None:
        """Show what was found in the data, before any training."""
        from searchkit.data.summary import describe as describe_data

        self.say(f"task {name}")
        for what, words in describe_data(found).items():
            for row in wrapped(f"  {what:<12} ", words, self.terminal.width):
                self.say(row)

    def progress(self, status: Status) -> None:
        """Show where the search stands: the search's own callback."""
        line = describe(status)
        shown = _verbatim(line)
        if self.terminal.is_terminal:
            if self.spinner is None:
                self.spinner = self.terminal.status(shown, spinner="dots")
                self.spinner.start()
            self.spinner.update(shown)
        elif status.done != self.last[0] or status.note:
            now = time.monotonic()
            if status.note or status.done >= status.trials or now - self.last[1] >= PLAIN_LINE_SECONDS:
                self.say(line)
                self.last = (status.done, now)

    def close(self) -> None:
        """End the live line, if there is one."""
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None


def wrapped(label: str, words: str, width: int) -> list[str]:
    """The words after their label, in lines of at most `width`, indented under the first word.

    A count stays with what it counts, and nothing is cut within a word unless that word alone is longer than a line.
    """
    together = re.sub(r"(?<![,;:]) (?=[(\d])", NO_BREAK, words)
    indent = " " * len(label)
    lines = textwrap.wrap(
        together, max(width, len(label) + 20), initial_indent=label, subsequent_indent=indent, break_on_hyphens=False
    )
    return [row.replace(NO_BREAK, " ") for row in lines]


def describe(status: Status) -> str:
    """Describe where the search stands in one line: trials, the best so far, the time left, what was rejected."""
    parts = [f"{status.done} of {status.trials} trials" if status.trials < 1000 else f"{status.done} trials"]
    if status.best is not None:
        parts.append(f"best {status.best:.4g}")
    if status.rejected:
        parts.append(f"{status.rejected} over a limit")
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.seconds_to_go and status.seconds_to_go < status.seconds_left:
        parts.append(f"about {show_seconds(status.seconds_to_go)} left")
    elif math.isfinite(status.seconds_left):
        parts.append(f"{show_seconds(status.seconds_left)} left")
    if status.note:
        parts.append(status.note)
    return " · ".join(parts)


def _verbatim(text: str) -> Text:
    """Text from data and files as it is: no markup, no emoji codes, no escapes of the terminal."""
    return Text(text.replace("\x1b", ""))
