"""One rung trained by several workers of Ray, by Ray Train and distributed data parallel.

Each worker runs the whole job as one replica (`searchkit.core.replicas`): it draws the same batches and takes its own
rows. The first one's outcome is the rung's. The task comes from the object store and the outcome goes back the same
way; Ray Train's checkpoints, which need a shared file system, are not used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from searchkit.core.errors import BadInput
from searchkit.core.scratch import scratch_folder
from searchkit.core.task import HasRowBatches, Task
from searchkit.search.jobs import Job, Outcome, TaskPack

Run = Callable[[TaskPack, Job], Outcome]

SHARED_FATE = ("", "infeasible", "diverged")
"""Failures that all replicas meet alike, since they depend on the candidate and the losses of all."""

NEEDED = ("pandas", "pyarrow")
"""What Ray Train imports beside Ray."""


class ReplicaFailed(Exception):
    """One replica failed by itself; the others would wait for it. Its one argument is the outcome."""


def require_replicas(task: Task, workers_per_trial: int) -> None:
    """Check that several workers can train one network of this task. Raises BadInput."""
    if workers_per_trial == 1:
        return
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"--workers-per-trial {workers_per_trial} needs Ray Train, which imports {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}."
        )
    reason = task.unsplittable() if isinstance(task, HasRowBatches) else "it is trained in a loop of its own"
    if reason is not None:
        raise BadInput(
            f"--workers-per-trial {workers_per_trial} cannot share out a training of the task '{task.name}': {reason}; "
            "leave it out."
        )


def run_on_replicas(packs: list[Any], job: Job, n: int, gpus: float, run: Run) -> Outcome:
    """The Ray task that starts the replicas of one job and waits for them; it computes nothing itself.

    Args:
        packs: The reference of the packed task: in a list, so that Ray does not fetch it for this process.
        job: What each replica runs.
        n: Replicas.
        gpus: Of each; 0 trains on CPUs.
        run: Trains a job with a task, as one replica.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with scratch_folder() as folder:  # Ray Train wants a place for its own notes
        trainer: Any = TorchTrainer(
            cast(Any, _one_replica),  # its annotation does not say that it may return something
            train_loop_config={"packs": packs, "job": job, "run": run},
            # two replicas on one GPU: NCCL refuses, gloo averages tensors of a GPU too
            torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=n, use_gpu=gpus > 0, resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})}
            ),
            run_config=RunConfig(storage_path=str(folder), failure_config=FailureConfig(max_failures=0)),
        )
        try:
            outcome = trainer.fit().return_value
        except Exception as error:  # of Ray Train, whose classes differ from release to release
            return _failed(job, error)
    return outcome if isinstance(outcome, Outcome) else Outcome(job.key, "lost", "the first replica returned nothing")


def _one_replica(config: dict[str, Any]) -> Outcome:
    """What each worker of Ray Train runs. The return value of the first is the trainer's."""
    import ray

    run: Run = config["run"]
    outcome = run(ray.get(config["packs"][0]), config["job"])
    if outcome.failure not in SHARED_FATE:
        raise ReplicaFailed(outcome)
    return outcome


def _failed(job: Job, error: Exception) -> Outcome:
    """The outcome of a job whose trainer raised: what a replica told, or else a lost job, which is tried again."""
    for cause in _causes(error):
        if isinstance(cause, ReplicaFailed):
            told: Outcome = cause.args[0]
            return replace(told, key=job.key)
    return Outcome(job.key, "lost", f"{type(error).__name__}: a worker of the trial died")


def _causes(error: BaseException) -> list[BaseException]:
    """The error, what caused it, and what it says of each worker."""
    found: list[BaseException] = [error]
    for one in found:
        workers = vars(one).get("worker_failures") or {}
        more = [one.__cause__, vars(one).get("cause"), *workers.values()]
        found += [cause for cause in more if isinstance(cause, BaseException) and cause not in found]
    return found
