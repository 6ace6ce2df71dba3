"""A rung as a job: plain data in, plain data out, on any machine.

A job starts from the state that the rung before left and returns its own, so a killed worker costs one rung and no
database or run folder is needed where it trains. Whatever goes wrong inside comes back as a labelled result: this
module has the engine's one broad boundary.
"""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import JSON, thaw
from searchkit.core.state import decode_state, encode_state, snapshot
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, Training

if TYPE_CHECKING:
    from torch import nn

    from searchkit.core.space import Space


@dataclass(frozen=True)
class Job:
    """One rung of one trial. state: `encode_state`, or b"" at the start. ends_at: stop at the first step after this
    moment, in seconds of the wall clock: a worker may take a while to start.
    """

    number: int
    rung: int
    until: int  # epochs
    space: dict[str, JSON]  # spacefile.source_of
    arch: dict[str, JSON]
    training: dict[str, JSON]
    seed: int
    state: bytes = b""
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    ends_at: float = float("inf")

    @property
    def key(self) -> str:
        return f"{self.number}-{self.rung}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job. failure: "" or infeasible, diverged, out-of-memory, crashed, timed-out, lost (the worker
    died: try again). state and weights: safetensors; scores: (n,) of val.
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


TaskPack = tuple[dict[str, JSON], Arrays]


def run_job(job: Job, task: Task, space: Space) -> Outcome:
    """Train and evaluate one rung. Never raises, KeyboardInterrupt and SystemExit aside."""
    from searchkit.train import Diverged

    started = time.monotonic()
    try:
        outcome = _train(job, task, space)
        return replace(outcome, seconds=time.monotonic() - started)
    except Infeasible as error:
        return Outcome(job.key, "infeasible", str(error))
    except Diverged as error:
        return Outcome(job.key, "diverged", str(error), seconds=time.monotonic() - started)
    except MemoryError as error:
        return Outcome(job.key, "out-of-memory", str(error) or "no memory left", traceback.format_exc())
    except Exception as error:  # the one broad boundary: a trial must not end the search
        kind = "out-of-memory" if _is_out_of_memory(error) else "crashed"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(job.key, kind, reason, traceback.format_exc(), seconds=time.monotonic() - started)


def _train(job: Job, task: Task, space: Space) -> Outcome:
    import torch
    from safetensors.torch import save

    from searchkit.onnx.predictor import Deployed, TorchPredictor

    torch.manual_seed(job.seed)
    net: nn.Module = space.build(thaw(space.arch, job.arch), task.spec)
    plan = FitPlan(
        training=thaw(Training, job.training),
        seed=job.seed,
        until=job.until,
        device=job.device,
        precision=job.precision,
        channels_last=job.channels_last,
        seconds=max(0.0, job.ends_at - time.time()),
        validate=True,
    )
    state = task.fit(net, plan, decode_state(job.state))
    deployed = Deployed(task.preprocessor(), net, task.postprocessor()).to(job.device).eval()
    evaluation = task.evaluate(TorchPredictor(deployed, task.inputs, task.answers, device=job.device), "val")
    return Outcome(
        job.key,
        state=encode_state(state),
        weights=save(snapshot(net.state_dict())),
        metrics={name: float(value) for name, value in evaluation.metrics.items()},
        scores=np.asarray(evaluation.scores, dtype=np.float64),
    )


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or "out of memory" in text or "can't allocate memory" in text


def settle_threads(threads: int) -> None:
    """One thread a worker: two one-thread processes equal one of two threads when quiet, and far better when not."""
    import torch

    torch.set_num_threads(threads)


WORKER_ENV = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Spinning OpenMP threads turned a 28 ms step into 128 ms where another process ran."""


def worker_environment(path: list[str]) -> dict[str, str]:
    """The environment of a worker process: this one's without the database's password, one thread, and the same import
    path, the engine's own folder on it and not the folder where the user stands: files there must shadow nothing.
    """
    root = str(Path(__file__).resolve().parents[2])
    here = [p for p in path if p and (p == root or Path(p).resolve() != Path.cwd())]
    environment = {name: value for name, value in os.environ.items() if name != "SEARCHKIT_STORAGE"}
    return {**environment, **WORKER_ENV, "PYTHONPATH": os.pathsep.join([*here, *([] if root in here else [root])])}
