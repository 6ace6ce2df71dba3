"""The machine that a run works on: its processor, its cores and its device."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from searchkit.core.errors import BadInput


def cores() -> int:
    """The number of cores that this process may use: under taskset or in a container's cpuset fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # /proc/cpuinfo has no such line on 64-bit ARM.
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def pick_device(wanted: str) -> str:
    """Choose the device to train on.

    Args:
        wanted: auto, cpu or cuda.

    Returns:
        cpu or cuda.

    Raises:
        BadInput: CUDA is asked for and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda was asked for, and torch finds no CUDA device here; use --device auto or cpu.")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def default_workers(device: str) -> int:
    """The number of workers for a device: two keep a GPU busy, and more only share it."""
    return min(cores(), 2) if device == "cuda" else cores()
