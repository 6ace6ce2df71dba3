"""Where jobs run: in this process, or in local worker processes. On Ray, see `searchkit.search.executors_ray`.

A worker process is a fresh Python on one thread that talks over one socket: the task once, then jobs in and outcomes
out. It writes nothing to disk and dies with its parent. A dead worker is replaced, and its job is reported as lost.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Protocol

from searchkit.core.errors import SearchkitError
from searchkit.core.space import Space
from searchkit.core.task import Task
from searchkit.core.threads import torch_threads
from searchkit.search.jobs import Job, Outcome, TaskPack, run_job, worker_environment


class Executor(Protocol):
    """Runs jobs.

    Attributes:
        capacity: Jobs that may run at once; the coordinator never submits more.
    """

    capacity: int

    def submit(self, job: Job) -> None:
        """Start the job, at once or when it is waited for."""

    def wait(self, seconds: float) -> list[Outcome]:
        """The outcomes that have come in; waits for one, but no longer than `seconds`."""

    def cancel(self, key: str) -> None:
        """Kill the job of this key; it will be reported as timed out."""

    def close(self) -> None:
        """Kill what runs; idempotent."""


class InProcess:
    """Runs a job in this process when it is waited for.

    Args:
        task: The data.
        space: The family whose networks are trained.
        others: More families, if jobs are of several.
    """

    capacity = 1

    def __init__(self, task: Task, space: Space, *others: Space) -> None:
        self.task, self.space = task, space
        self.others = {other.name: other for other in others}
        self.jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Keep the job until it is waited for."""
        self.jobs.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        """Run the oldest job, however long it takes."""
        if not self.jobs:
            return []
        with torch_threads(1):  # as a worker process has: the last bits of a sum depend on it
            job = self.jobs.popleft()
            return [run_job(job, self.task, self.others.get(job.family, self.space))]

    def cancel(self, key: str) -> None:
        """A job in this process ends by its own deadline only."""

    def close(self) -> None:
        """Forget the jobs that were not run."""
        self.jobs.clear()


class Processes:
    """Worker processes, each of which gets the packed task once, before its first job.

    They start at once: each takes seconds to import torch, in which this process can plan the search.

    Attributes:
        capacity: Workers.
        pack: What `Task.pack` gives.
        workers: Those that were started and not ended; one more is started when a job finds none idle.
        cancelled: The keys of jobs whose workers are being killed.
        unreported: Outcomes of workers that died.
        n_silent: Workers in a row that died before any of them finished a job.
    """

    def __init__(self, pack: TaskPack, *, workers: int) -> None:
        self.capacity = workers
        self.pack = pack
        self.workers = [_Worker(pack) for _ in range(workers)]
        self.cancelled: set[str] = set()
        self.unreported: list[Outcome] = []
        self.n_silent = 0

    def submit(self, job: Job) -> None:
        """Hand the job to an idle worker, or to a new one."""
        worker = next((w for w in self.workers if w.job is None and w.process.poll() is None), None)
        if worker is None:
            self.workers = [w for w in self.workers if w.job is not None or w.process.poll() is None]
            worker = _Worker(self.pack)
            self.workers.append(worker)
        # a worker may die between the check above and this: its job is then told as lost, as any other
        if not worker.take(job):
            self._bury(worker)

    def wait(self, seconds: float) -> list[Outcome]:
        """See `Executor.wait`. Raises SearchkitError if worker after worker dies before it finishes a job."""
        done, self.unreported = self.unreported, []
        busy = {w.connection: w for w in self.workers if w.job is not None}
        # If there is something to report already, the sockets are looked at without waiting. A dead worker's socket is
        # ready too: reading from it raises.
        for connection in wait(list(busy), timeout=0 if done else seconds) if busy else []:
            worker = busy[connection]  # type: ignore[index]
            try:
                outcome: Outcome = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
                continue
            worker.job = None
            self.n_silent = 0
            self.cancelled.discard(outcome.key)
            done.append(outcome)
        done += self.unreported
        self.unreported = []
        return done

    def cancel(self, key: str) -> None:
        """Kill the job's worker."""
        for worker in self.workers:
            if worker.job is not None and worker.job.key == key:
                self.cancelled.add(key)
                worker.process.kill()

    def close(self) -> None:
        """Kill all workers."""
        for worker in self.workers:
            worker.end()
        self.workers.clear()

    def _bury(self, worker: _Worker) -> None:
        """Take a dead worker out and report its job."""
        job = worker.job
        worker.end()
        self.workers.remove(worker)
        assert job is not None
        if job.key in self.cancelled:
            self.cancelled.discard(job.key)
            self.unreported.append(Outcome(job.key, "timed-out", "the rung took too long and was killed"))
            return
        self.n_silent += 1
        # A trial is given up after 3 lost workers (`policy.MOST_LOST_WORKERS`), and `capacity` of them train side by
        # side. More deaths in a row than that are hardly the fault of single trials.
        if self.n_silent > 3 * self.capacity + 6:
            raise SearchkitError(
                f"{self.n_silent} worker processes in a row ended before they finished a job (the last with status "
                f"{worker.process.returncode}); see their messages above, or search with one worker in this process."
            )
        self.unreported.append(Outcome(job.key, "lost", f"the worker ended with status {worker.process.returncode}"))


class _Worker:
    """One process and this end of its socket."""

    def __init__(self, pack: TaskPack) -> None:
        # This process closes its copy of `theirs` once the child has it: with a copy left open, the end of the child
        # would not end the connection.
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                # -P: nothing in the current folder is imported in place of a module
                [sys.executable, "-P", "-m", "searchkit.search.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=worker_environment(sys.path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the command's own, which may write JSON there
            )
        self.connection = Connection(ours.detach())
        self.pack: TaskPack | None = pack
        self.job: Job | None = None

    def take(self, job: Job) -> bool:
        """Send the job to the worker; False if the worker is dead."""
        self.job = job
        try:
            if self.pack is not None:
                self.connection.send(self.pack)
                self.pack = None
            self.connection.send(job)
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Kill the process, if it has not ended, and wait until it has."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
