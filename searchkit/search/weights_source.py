"""Where trained weights are found: a .safetensors file, a run, or the bundle inside of a run.

A bundle by itself holds exported files, in which layers have lost their names; so its weights are those of its run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.config import naming
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.run import Run
from searchkit.search.results import history, winners

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
"""Endings of files that may run code when they are read."""


@dataclass(frozen=True)
class WeightsSource:
    """Trained weights.

    Attributes:
        asked: The option as the user wrote it, for a message.
        name: What the user calls them.
        file: Where they are.
        sha256: Of the file.
        weights: By name.
        family: Of the network that they are of; empty if that is not known.
        params: Of the trial that they are of; empty if that is not known.
    """

    asked: str
    name: str
    file: Path
    sha256: str
    weights: Mapping[str, Tensor]
    family: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


def find_weights(asked: str, runs: Path) -> WeightsSource:
    """Find trained weights.

    Args:
        asked: The path of a .safetensors file, of a run or of a bundle in its run; or a run's name.
        runs: The folder of runs, in which a name is looked for.

    Raises:
        BadInput: There is no such thing, it cannot be read, or it has no weights.
    """
    given = naming.given("init_from", asked)
    path = next((p for p in (Path(asked), runs / asked) if p.exists()), None)
    if path is None:
        raise BadInput(
            f"{given} is neither a file nor a run in {runs}; give a {SUFFIX} file, a run, or a run's bundle."
        )
    if path.is_file():
        return _read(given, path)
    if (path / "manifest.json").is_file():
        if not (path.parent / "run.json").is_file():
            raise BadInput(
                f"{given} is a bundle outside of its run: its exported files have lost the names of the layers; give "
                f"the run, or the {SUFFIX} file of one of its artifacts."
            )
        return _of_run(given, Run.open(path.parent), path / "manifest.json")
    if (path / "run.json").is_file():
        return _of_run(given, Run.open(path), path / "bundle" / "manifest.json")
    raise BadInput(f"{given} is a folder without a run or a bundle; give a {SUFFIX} file, a run, or a run's bundle.")


def _read(given: str, file: Path, name: str = "") -> WeightsSource:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if file.suffix != SUFFIX:
        why = "may run code when it is read" if file.suffix in PICKLES else "is no file of weights"
        raise BadInput(f"{given} {why}; save the weights by safetensors.torch.save_file and give that {SUFFIX} file.")
    try:
        data = file.read_bytes()
        weights = load(data)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{given} cannot be read: {str(error).splitlines()[0]}; give a whole {SUFFIX} file.") from error
    name = name or file.name
    return WeightsSource(given, name, file.resolve(), hashlib.sha256(data).hexdigest(), weights)


def _of_run(given: str, run: Run, manifest: Path) -> WeightsSource:
    """The weights of what a run shipped, before anything was cut from it; before any bundle, of its best trial."""
    artifact = _shipped(run, manifest)
    if artifact is None:
        found = winners(run)
        if not found:
            raise BadInput(f"{given} has no trained trial, so there are no weights to start from; go on with it first.")
        artifact = found[0]
    trial = next(one for one in run.line(artifact) if one.stage == "Trial")
    whole = [one for one in run.line(artifact) if "weights" in one.files and not one.edits]
    source = _read(given, run.file((whole or [trial])[-1], "weights"), run.name)
    params = next((row["params"] for row in history(run) if row["artifact"] == trial.id), {})
    return replace(source, family=trial.space, params=params)


def _shipped(run: Run, manifest: Path) -> Artifact | None:
    """The artifact of a bundle, or the trial that one was exported of by itself; None if there is no bundle."""
    try:
        plain = json.loads(manifest.read_text(encoding="utf-8"))
        id, number = str(plain["artifact"]), int(plain["recipe"][0]["number"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return run.load(id) if run.has(id) else run.trial(number)
