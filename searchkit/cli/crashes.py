"""What happens if something breaks that nobody foresaw: a log of the traceback, and one sentence on the screen."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from searchkit.core.data_spec import brief

if TYPE_CHECKING:
    from searchkit.run import Run


def watch_for_crashes(run: Run | None = None) -> None:
    """Write the traceback of an unexpected error to a log, and one sentence to stderr.

    Args:
        run: whose folder gets the log; a temporary file does if it is None.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = time.strftime("%Y-%m-%dT%H:%M:%S") + "\n" + "".join(traceback.format_exception(kind, error, trace))
        sentence = f"searchkit stopped on {kind.__name__}: {brief(error)}."
        try:
            if run is not None and run.path.is_dir():
                log = run.path / "error.log"
                hint = f" What is done is kept: searchkit search --resume {run.name} goes on."
            else:
                handle, name = tempfile.mkstemp(prefix="searchkit-", suffix=".log")
                os.close(handle)
                log, hint = Path(name), ""
            with open(log, "a", encoding="utf-8") as file:
                file.write(told)
            sentence += f" The traceback is in {log}.{hint}"
        except OSError:  # the disk may be what is full
            sentence += "\n" + told
        print(sentence, file=sys.stderr)

    sys.excepthook = hook
