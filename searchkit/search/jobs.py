"""A rung as a job: plain data in, plain data out, on any machine.

A job starts from the state that the rung before left and returns its own, so a killed worker costs one rung and no
database or run folder is needed on the machine that trains. Whatever goes wrong inside comes back as a labeled result:
the search's one broad boundary is here.
"""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchkit.core import timing
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import JSON, thaw
from searchkit.core.state import decode_state, encode_state, snapshot
from searchkit.core.task import HasParts, HasSides, Task
from searchkit.core.training import FitPlan, Training, TrainState

if TYPE_CHECKING:
    from torch import nn

    from searchkit.core.space import Space


@dataclass(frozen=True)
class Job:
    """One rung of one trial.

    Attributes:
        number: The trial's.
        rung: Counted from 0.
        until: The epoch at which the rung ends.
        space: What `space_file.source_of` gives of the family.
        arch: As JSON.
        training: As JSON.
        seed: Of the network's first weights and of the training.
        state: What `encode_state` gives of the state that the rung before left; b"" at the start.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16".
        channels_last: See `FitPlan`.
        ends_at: Training stops at the first step after this moment, in seconds of the wall clock: a worker may take a
            while to start.
        data_part: Of the training data, that the rung trains on.
        sides: Of the length of a picture's sides, at which the rung trains and is scored if the network takes such.
        family: The name of the family.
        initial: Weights that the network takes over where they fit, as a safetensors buffer; b"" for none.
        frozen_epochs: In which what was taken over is held fixed.
        start: The weights that the first rung begins with, as safetensors; b"" for random ones.
    """

    number: int
    rung: int
    until: int
    space: dict[str, JSON]
    arch: dict[str, JSON]
    training: dict[str, JSON]
    seed: int
    state: bytes = b""
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    ends_at: float = float("inf")
    data_part: float = 1.0
    sides: float = 1.0
    family: str = ""
    initial: bytes = b""
    frozen_epochs: int = 0
    start: bytes = b""

    @property
    def key(self) -> str:
        """The same for the same rung of the same trial."""
        return f"{self.number}-{self.rung}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        key: The job's.
        failure: "" if there was none; else infeasible, diverged, out-of-memory, crashed, timed-out, or lost (the worker
            died: the job can be tried again).
        reason: Of the failure, in a sentence.
        details: Of the failure: the traceback.
        state: Where the training stands, by `encode_state`.
        weights: Of the network as it is evaluated, as safetensors.
        metrics: On val, by name.
        scores: (n,) float64 of val.
        seconds: That the job took.
        parts: Seconds of a worker process by part, see `searchkit.core.timing`; empty if the job ran in the process of
            the run, which has counted them.
    """

    key: str
    failure: str = ""
    reason: str = ""
    details: str = ""
    state: bytes = b""
    weights: bytes = b""
    metrics: dict[str, float] | None = None
    scores: np.ndarray | None = None
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


TaskPack = tuple[dict[str, JSON], Arrays]


def run_job(job: Job, task: Task, space: Space) -> Outcome:
    """Train and evaluate one rung.

    Whatever goes wrong is told in the outcome; KeyboardInterrupt and SystemExit alone are raised.
    """
    started = time.monotonic()
    outcome = _labeled(job, task, space)
    return replace(outcome, seconds=time.monotonic() - started)


def _labeled(job: Job, task: Task, space: Space) -> Outcome:
    """What `_train` gives, or what went wrong in it."""
    from searchkit.train import Diverged

    try:
        return _train(job, task, space)
    except Infeasible as error:
        return Outcome(job.key, "infeasible", str(error))
    except Diverged as error:
        return Outcome(job.key, "diverged", str(error))
    # Before Exception, of which it is a subclass. torch raises RuntimeErrors instead, which `_is_out_of_memory` tells.
    except MemoryError as error:
        return Outcome(job.key, "out-of-memory", str(error) or "no memory left", traceback.format_exc())
    except Exception as error:  # the one broad boundary: a trial must not end the search
        kind = "out-of-memory" if _is_out_of_memory(error) else "crashed"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(job.key, kind, reason, traceback.format_exc())


def _train(job: Job, task: Task, space: Space) -> Outcome:
    import torch
    from safetensors.torch import load, save

    from searchkit.core.replicas import replicas
    from searchkit.onnx.predictor import Deployed, TorchPredictor

    torch.manual_seed(job.seed)  # the first weights; what training draws is seeded by each epoch
    net: nn.Module = space.build(thaw(space.arch, job.arch), task.spec)
    if job.start and not job.state:
        net.load_state_dict(load(job.start))
    plan = FitPlan(
        training=thaw(Training, job.training),
        seed=job.seed,
        until=job.until,
        device=job.device,
        precision=job.precision,
        channels_last=job.channels_last,
        seconds=max(0.0, job.ends_at - time.time()),  # wall clock: monotonic clocks of two processes do not compare
        validate=True,
    )
    with timing.part("training"):
        seen = _seen(task, job, net)
        state = _fit(job, seen, net, plan)
    if replicas().rank:  # the first of several replicas validates, and its weights are those of all
        return Outcome(job.key)
    deployed = Deployed(seen.preprocessor(), net, seen.postprocessor()).to(job.device).eval()
    with timing.part("validation"):
        evaluation = seen.evaluate(TorchPredictor(deployed, seen.inputs, seen.answers, device=job.device), "val")
    return Outcome(
        job.key,
        state=encode_state(state),
        weights=save(snapshot(net.state_dict())),
        metrics={name: float(value) for name, value in evaluation.metrics.items()},
        scores=np.asarray(evaluation.scores, dtype=np.float64),
    )


def _fit(job: Job, task: Task, net: nn.Module, plan: FitPlan) -> TrainState:
    """Train the network from the state that the rung before left, or from the weights that it starts from."""
    state = decode_state(job.state)
    if not job.initial:
        return task.fit(net, plan, state)
    from searchkit.search.transfer import fit_from

    return fit_from(task, net, plan, state, data=job.initial, epochs=job.frozen_epochs)


def _seen(task: Task, job: Job, net: nn.Module) -> Task:
    """The task as the rung sees it: a part of its training data, in smaller pictures if the network takes them."""
    found = task.part(job.data_part) if job.data_part < 1 and isinstance(task, HasParts) else task
    small = found.shrunk(job.sides) if job.sides < 1 and isinstance(found, HasSides) else found
    assert found is not None and small is not None, "the plan asks of tasks what they have"
    return small if small is found or takes(net, small) else found


def takes(net: nn.Module, task: Task) -> bool:
    """Whether a network answers inputs of this task's size as it does its own; a flattening one cannot."""
    import torch

    batch = next(iter(task.batches("val", Training(batch_size=2), seed=0, device="cpu")))
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(*batch.inputs)
    except RuntimeError:  # torch's, of shapes that do not fit
        return False
    finally:
        net.train(was_training)
    return True


def _is_out_of_memory(error: Exception) -> bool:
    # On a GPU torch.OutOfMemoryError; on a CPU a RuntimeError that says "DefaultCPUAllocator: can't allocate memory".
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or "out of memory" in text or "can't allocate memory" in text


def settle_threads(threads: int) -> None:
    """One thread a worker: two one-thread processes equal one of two threads when quiet, and far better when not."""
    import torch

    torch.set_num_threads(threads)


WORKER_ENV = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Spinning OpenMP threads turned a 28 ms step into 128 ms while another process ran (measured)."""


def worker_environment(path: list[str]) -> dict[str, str]:
    """The environment of a worker process: this one's on one thread, without the database's password.

    Args:
        path: This process's import path. The worker gets it with the engine's own folder on it, and without the current
            folder: a file there must shadow no module.
    """
    root = str(Path(__file__).resolve().parents[2])
    # An empty entry is the current folder as well; the engine's own folder stays, even if it is the current one.
    here = [p for p in path if p and (p == root or Path(p).resolve() != Path.cwd())]
    environment = {name: value for name, value in os.environ.items() if name != "SEARCHKIT_STORAGE"}
    return {**environment, **WORKER_ENV, "PYTHONPATH": os.pathsep.join([*here, *([] if root in here else [root])])}
