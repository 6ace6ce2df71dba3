"""Jobs as Ray tasks, on this machine or a cluster. An extra: `pip install searchkit[ray]`.

Plain data in, plain data and weights out, so that no file system is shared; the packed task is put into the object
store once. Ray itself retries nothing: a lost job goes back to the coordinator, which starts it from its last rung.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import logging
import os
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from searchkit.core import timing
from searchkit.core.errors import BadInput
from searchkit.core.serialization import digest
from searchkit.core.task import Task
from searchkit.search.jobs import WORKER_ENV, Job, Outcome, TaskPack, run_job, settle_threads, worker_environment


class Ray:
    """Jobs as Ray tasks; on a cluster, Ray's own scheduler places them.

    Attributes:
        capacity: Jobs at once.
        pack: The packed task in Ray's object store.
        jobs: What runs, by Ray's reference.
        cancelled: The keys of jobs that are being killed.

    Raises:
        BadInput: Ray is not installed, or the address may not be used.
    """

    def __init__(self, pack: TaskPack, *, workers: int, address: str | None = None, device: str = "cpu") -> None:
        require_ray(address)
        import ray

        self.capacity = workers
        self.ray: Any = ray
        self.started_here = not ray.is_initialized()
        if self.started_here:
            self._start(address, workers)
        self.pack = ray.put(pack)
        n_gpus = 1 / workers if device == "cuda" else 0
        self.task: Any = ray.remote(max_retries=0, num_cpus=1, num_gpus=n_gpus)(run_on_ray)
        self.jobs: dict[Any, Job] = {}
        self.cancelled: set[str] = set()

    def _start(self, address: str | None, workers: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if address is not None:
            try:
                self.ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError) as error:
                raise BadInput(f"No Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
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


_QUIET_RAY = {"RAY_DEDUP_LOGS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_unpacked: dict[str, Task] = {}


def run_on_ray(pack: TaskPack, job: Job) -> Outcome:
    """A worker process of Ray serves many jobs: it unpacks the task for the first of them.

    In a cluster that was running already, it serves the jobs of other searches too.
    """
    from searchkit.core.space_file import materialize
    from searchkit.tasks import registry

    settle_threads(1)
    config, arrays = pack
    key = _digest(pack)
    if key not in _unpacked:
        _unpacked.clear()
        # the object store's memory is read-only, and a task may keep views of it: copy once a worker
        _unpacked[key] = registry.unpack(config, {name: array.copy() for name, array in arrays.items()})
    outcome = run_job(job, _unpacked[key], materialize(job.space))
    return replace(outcome, parts=timing.take())


def _digest(pack: TaskPack) -> str:
    """Of all that is in it. It takes .2 s for 200 MB, which is little beside a rung on so many data (measured)."""
    config, arrays = pack
    hasher = hashlib.sha256(digest(config).encode())
    for name, values in arrays.items():
        hasher.update(f"{name} {values.dtype.str} {values.shape}".encode())
        hasher.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
    return hasher.hexdigest()


def require_ray(address: str | None) -> None:
    """Check that Ray is installed and that `address` may be used. Raises BadInput."""
    if importlib.util.find_spec("ray") is None:
        raise BadInput("The executor ray needs Ray: pip install 'searchkit[ray]'.")
    require_token(address)


def require_token(address: str | None) -> None:
    """Check that a cluster on another machine has Ray's token authentication on: an open port runs anybody's code.

    Args:
        address: Of the cluster; None for one that is started here.

    Raises:
        BadInput: It has it off.
    """
    if address is None or _is_loopback(address) or os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return
    raise BadInput(
        f"The Ray address {address} is not on this machine and token authentication is off; set RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here and on the cluster, or leave --address out."
    )


def _is_loopback(address: str) -> bool:
    """Whether the address is this machine's.

    "auto" may name a cluster anywhere (RAY_ADDRESS, a file in /tmp), so it is not; "local" starts one here.
    """
    host = address.partition("://")[2] or address
    host = host.rsplit(":", 1)[0].strip("[]") if ":" in host else host
    if host in ("localhost", "local"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
