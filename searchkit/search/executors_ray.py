"""Jobs as Ray tasks, on this machine or a cluster. An extra: `pip install searchkit[ray]`.

Plain data in, plain data and weights out, so that no file system is shared; the packed task is put into the object
store once. Ray itself retries nothing: a lost job goes back to the coordinator, which starts it from its last rung.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchkit.core import timing
from searchkit.core.errors import BadInput
from searchkit.core.serialization import digest
from searchkit.core.task import Task
from searchkit.search.jobs import WORKER_ENV, Job, Outcome, TaskPack, run_job, settle_threads, worker_environment
from searchkit.search.ray_address import require_answer, require_ray, require_token
from searchkit.search.ray_replicas import run_on_replicas

__all__ = ["Ray", "require_ray", "require_token", "run_on_ray"]


class Ray:
    """Jobs as Ray tasks; on a cluster, Ray's own scheduler places them.

    Attributes:
        capacity: Jobs at once.
        pack: The packed task in Ray's object store.
        jobs: What runs, by Ray's reference.
        cancelled: The keys of jobs that are being killed.
        on_gpus: Whether Ray gives each job a GPU or a part of one.

    Raises:
        BadInput: Ray is not installed, or the address may not be used.
    """

    def __init__(
        self,
        pack: TaskPack,
        *,
        workers: int,
        address: str | None = None,
        device: str = "cpu",
        gpus_per_trial: float | None = None,
        workers_per_trial: int = 1,
    ) -> None:
        require_ray(address)
        import ray

        self.capacity = max(1, workers // workers_per_trial)
        self.ray: Any = ray
        self.jobs: dict[Any, Job] = {}
        self.cancelled: set[str] = set()
        self.started_here = not ray.is_initialized()
        if self.started_here:
            self._start(address, workers)
        if gpus_per_trial is None:
            gpus = 1 / workers if device == "cuda" else 0.0
        else:
            gpus = gpus_per_trial / workers_per_trial
        try:
            require_room(self.ray.nodes(), workers_per_trial, gpus)
        except BadInput:
            self.close()
            raise
        self.on_gpus = gpus > 0
        self.pack = ray.put(pack)
        if workers_per_trial == 1:
            self.task: Any = ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(run_on_ray)
        else:
            team = ray.remote(max_retries=0, num_cpus=0)(run_on_replicas)
            self.task = _Team(team, workers_per_trial, gpus)

    def _start(self, address: str | None, workers: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if address is not None:
            require_answer(address)
            try:
                self.ray.init(address=address, **quiet)
            # Ray ends the process where it gives up: a SystemExit
            except (ConnectionError, RuntimeError, SystemExit) as error:
                said = (str(error).splitlines() or [""])[0]
                raise BadInput(f"The Ray cluster at {address} cannot be used: {said}") from error
            return
        # Ray's processes take the environment as it is when the cluster starts. It is put back afterwards, since this
        # process is not a worker.
        inherited = worker_environment(sys.path)
        before = {name: os.environ.get(name) for name in (*WORKER_ENV, "PYTHONPATH", *_QUIET_RAY)}
        os.environ.update({name: inherited[name] for name in (*WORKER_ENV, "PYTHONPATH")} | _QUIET_RAY)
        # Ray 2.60 turns its token authentication on for a cluster that it starts, and logs that at every start
        logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
        try:
            self.ray.init(
                address="local",  # whatever RAY_ADDRESS says
                num_cpus=workers,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                object_store_memory=2**28,
                **quiet,
            )
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def submit(self, job: Job) -> None:
        """Hand the job to Ray."""
        if self.on_gpus and job.device == "cpu":
            job = replace(job, device=OPEN)
        self.jobs[self.task.remote(self.pack, job)] = job

    def wait(self, seconds: float) -> list[Outcome]:
        """See `Executor.wait`."""
        if not self.jobs:
            return []
        # Ray converts the timeout to whole milliseconds, which fails for infinity.
        ready, _ = self.ray.wait(list(self.jobs), num_returns=1, timeout=min(seconds, 3600.0))
        return [self._outcome(reference) for reference in ready]

    def _outcome(self, reference: Any) -> Outcome:
        job = self.jobs.pop(reference)
        errors = self.ray.exceptions
        try:
            outcome: Outcome = self.ray.get(reference)
            return outcome
        except errors.OutOfMemoryError as error:  # Ray's own guard killed the worker
            return Outcome(job.key, "out-of-memory", str(error).splitlines()[0])
        # `cancel` with force kills the process: a running job comes back as crashed, one that has not begun as
        # cancelled.
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
            if job.key in self.cancelled:
                return Outcome(job.key, "timed-out", "the rung took too long and was killed")
            return Outcome(job.key, "lost", f"{type(error).__name__}: the worker died")
        except errors.TaskCancelledError:
            return Outcome(job.key, "timed-out", "the rung took too long and was cancelled")
        except errors.RayTaskError as error:
            return Outcome(job.key, "crashed", str(error).strip().splitlines()[-1], str(error))

    def cancel(self, key: str) -> None:
        """Kill the job's worker."""
        for reference, job in self.jobs.items():
            if job.key == key:
                self.cancelled.add(key)
                self.ray.cancel(reference, force=True)

    def close(self) -> None:
        """Kill what runs; a cluster that was started here is stopped."""
        for reference in self.jobs:
            self.ray.cancel(reference, force=True)
        self.jobs.clear()
        if self.started_here and self.ray.is_initialized():
            self.ray.shutdown()
            time.sleep(0.1)


class _Team:
    """Stands where a Ray task does: starts the workers that train one job together."""

    def __init__(self, task: Any, n: int, gpus: float) -> None:
        self.task, self.n, self.gpus = task, n, gpus

    def remote(self, pack: Any, job: Job) -> Any:
        return self.task.remote([pack], job, self.n, self.gpus, run_on_ray)


def require_room(nodes: Sequence[Mapping[str, Any]], workers_per_trial: int, gpus: float) -> None:
    """Check that the nodes of a cluster can hold a training at all.

    Args:
        nodes: As `ray.nodes` tells them.
        workers_per_trial: That train one network; each fits on one node.
        gpus: Of each worker.

    Raises:
        BadInput: They cannot, if nothing else ran: Ray would wait for ever.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    have = [(int(r.get("CPU", 0)), float(r.get("GPU", 0))) for r in alive]
    # Ray shares out a part of one GPU, or whole ones
    room = [min(cpus, _places(whole, gpus)) for cpus, whole in have]
    if sum(room) >= workers_per_trial:
        return
    most_cpus, most_gpus = (max((row[i] for row in have), default=0) for i in (0, 1))
    wanted = f"{workers_per_trial} workers with a CPU" if workers_per_trial > 1 else "a worker with a CPU"
    wanted += f" and {gpus:g} GPUs" + (" each" if workers_per_trial > 1 else "") if gpus else ""
    raise BadInput(
        f"No node of the Ray cluster can hold a training ({wanted}): its {len(have)} nodes have at most {most_cpus} "
        f"CPUs and {most_gpus:g} GPUs each; ask for less by --gpus-per-trial or --workers-per-trial, or add a node."
    )


def _places(n_gpus: float, each: float) -> int:
    """How many workers the GPUs of a node hold."""
    if each == 0:
        return sys.maxsize
    return int(n_gpus) * int(1 / each + 1e-9) if each <= 1 else int(n_gpus // each)


OPEN = "auto"
"""The device of a job that a worker trains on its GPU if it has one."""

_QUIET_RAY = {"RAY_DEDUP_LOGS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_unpacked: dict[str, Task] = {}


def run_on_ray(pack: TaskPack, job: Job) -> Outcome:
    """A worker process of Ray serves many jobs: it unpacks the task for the first of them.

    In a cluster that was running already, it serves the jobs of other searches too.
    """
    from searchkit.core.space_file import materialize
    from searchkit.tasks import registry

    settle_threads(1)
    job = _on_device(job)
    config, arrays = pack
    key = _digest(pack)
    if key not in _unpacked:
        _unpacked.clear()
        # the object store's memory is read-only, and a task may keep views of it: copy once a worker
        _unpacked[key] = registry.unpack(config, {name: array.copy() for name, array in arrays.items()})
    outcome = run_job(job, _unpacked[key], materialize(job.space))
    return replace(outcome, parts=timing.take())


def _on_device(job: Job) -> Job:
    """The job on a device that is here, if it was left open: the coordinator's machine may have no GPU."""
    import torch

    return job if job.device != OPEN else replace(job, device="cuda" if torch.cuda.is_available() else "cpu")


def _digest(pack: TaskPack) -> str:
    """Of all that is in it. It takes .2 s for 200 MB, which is little beside a rung on so many data (measured)."""
    config, arrays = pack
    hasher = hashlib.sha256(digest(config).encode())
    for name, values in arrays.items():
        hasher.update(f"{name} {values.dtype.str} {values.shape}".encode())
        hasher.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
    return hasher.hexdigest()
