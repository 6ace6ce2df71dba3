"""What a person sees while a run works: one live line on a terminal or in a notebook, plain lines elsewhere.

Every line also goes to the logger "searchkit" at level INFO, whether or not it is shown. rich draws on a terminal and
honors NO_COLOR. Plain lines come when something changed, and at most every few seconds, so that a log of a night's
search stays readable.
"""

from __future__ import annotations

import html
import logging
import math
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from searchkit.core.errors import BadInput
from searchkit.core.quantities import show_seconds

if TYPE_CHECKING:
    from searchkit.search.settings import Status

logger = logging.getLogger("searchkit")

PLAIN_LINE_SECONDS = 5.0

Show: TypeAlias = Literal["auto", "rich", "plain", "none"]


class Display(Protocol):
    """Where lines are shown."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def live(self, text: str) -> bool:
        """Show a line that the next takes the place of; False if this display has no such line."""

    def close(self) -> None:
        """Remove the live line."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def live(self, text: str) -> bool:
        """Show nothing."""
        return True

    def close(self) -> None:
        """Do nothing."""


class Terminal:
    """Lines on stderr through rich; the live line is a spinner, if stderr is a terminal."""

    def __init__(self, *, plain: bool = False) -> None:
        from rich.console import Console

        # Without force_jupyter=False rich would write HTML into a notebook's cell instead of lines to stderr.
        self.console = Console(stderr=True, highlight=False, force_jupyter=False)
        self.plain = plain or not self.console.is_terminal
        self.spinner: Any = None

    def say(self, text: str) -> None:
        """Show a line that stays."""
        # rich would break lines at 80 characters where there is no terminal, and cut paths in two.
        self.console.print(self._verbatim(text), soft_wrap=True)

    def live(self, text: str) -> bool:
        """Show a line in place of the one before."""
        if self.plain:
            return False
        shown = self._verbatim(text)
        if self.spinner is None:
            self.spinner = self.console.status(shown, spinner="dots")
            self.spinner.start()
        self.spinner.update(shown)
        return True

    def close(self) -> None:
        """Remove the live line."""
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None

    @staticmethod
    def _verbatim(text: str) -> Any:
        """What came from data and files is shown as it is: no markup, no emoji codes, no escapes of the terminal."""
        from rich.text import Text

        return Text(text.replace("\x1b", ""))


class Notebook:
    """One output area of a notebook's cell, written anew for each line: it needs IPython and no widgets."""

    KEPT = 12
    """Lines that stay visible."""

    def __init__(self) -> None:
        shown: Any = import_module("IPython.display")  # whose functions have no annotations
        self.html = shown.HTML
        self.lines: list[str] = []
        self.handle = shown.display(shown.HTML(""), display_id=True)

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self.lines = [*self.lines, text][-self.KEPT :]
        self._draw(self.lines)

    def live(self, text: str) -> bool:
        """Show a line below the others, in place of the one before."""
        self._draw([*self.lines, text])
        return True

    def close(self) -> None:
        """Remove the live line."""
        self._draw(self.lines)

    def _draw(self, lines: list[str]) -> None:
        text = html.escape("\n".join(lines))
        self.handle.update(self.html(f"<pre style='white-space:pre-wrap;margin:0'>{text}</pre>"))


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code. A terminal's IPython is a terminal."""
    ipython = sys.modules.get("IPython")  # not imported: a kernel has done so already
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def make_display(show: Show) -> Display:
    """The display that `show` names; "auto" is a notebook's cell, else the terminal. Raises BadInput."""
    if show not in ("auto", "rich", "plain", "none"):
        raise BadInput(f"No progress named '{show}'; it is auto, rich, plain or none.")
    if show == "none":
        return Silent()
    return Notebook() if show == "auto" and in_notebook() else Terminal(plain=show == "plain")


class Progress:
    """Tells how a run goes: to a display, and to the logger "searchkit". It is a `workflow.Screen`.

    Args:
        show: The display, see `make_display`.
        logs: Whether the logger gets the lines too. The command line has it off: its `-v` shows the log on the same
            stderr.
    """

    def __init__(self, show: Show = "auto", *, logs: bool = True) -> None:
        self.display = make_display(show)
        self.logs = logs
        self.last = (-1, -math.inf)  # trials done, when that was said

    def say(self, text: str) -> None:
        """Tell one line."""
        self._log(text)
        self.display.say(text)

    def progress(self, status: Status) -> None:
        """Tell where the search stands. A live display gets all, a log what changed, at most every few seconds."""
        line = describe(status)
        shown = self.display.live(line)
        if status.done == self.last[0] and not status.note:
            return
        now = time.monotonic()
        if status.note or status.done >= status.trials or now - self.last[1] >= PLAIN_LINE_SECONDS:
            self._log(line)
            if not shown:
                self.display.say(line)
            self.last = (status.done, now)

    def close(self) -> None:
        """Remove the live line."""
        self.display.close()

    def _log(self, line: str) -> None:
        if self.logs:
            logger.info("%s", line)


def describe(status: Status) -> str:
    """Describe where the search stands in one line: trials, the best so far, what was rejected, the time left."""
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
