"""A worker process: `python -P -m searchkit.search.worker FD PARENT`, started by `executors.Processes`.

It gets the packed task, then jobs, over the socket FD, and sends an outcome for each. It ends with its parent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection

from searchkit.core import timing
from searchkit.search.jobs import Job, run_job, settle_threads


def main(fd: int, parent: int) -> None:
    """Run jobs until the parent hangs up.

    Args:
        fd: The number of this end of the socket.
        parent: The parent's process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the coordinator decides
    # Before the imports below, which load torch: the parent may die while they run.
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    from searchkit.core.space_file import materialize
    from searchkit.tasks import registry

    settle_threads(1)
    connection = Connection(fd)
    try:
        config, arrays = connection.recv()
        task = registry.unpack(config, arrays)
        timing.add({"start of workers": timing.process_seconds()})
        while True:
            job: Job = connection.recv()
            outcome = run_job(job, task, materialize(job.space))
            connection.send(replace(outcome, parts=timing.take()))
    except (EOFError, OSError):
        os._exit(0)


def _die_with(parent: int) -> None:
    """An orphan trains for nobody."""
    while os.getppid() == parent:
        time.sleep(0.5)
    # `sys.exit` would end this thread alone.
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
