"""The Run is a directory, the only thing that passes between the parts; this module alone knows its paths.

An artifact's folder gets its `artifact.json` last, by rename, so that what can be listed is whole. Everything else that
is written here is written beside its place and renamed too: a kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.files import (
    Figures,
    append_row,
    file_locks,
    lock,
    name_in_run,
    read_json,
    read_rows,
    readable,
    to_json,
    write_atomically,
)
from searchkit.core.run_files import ArtifactFile, Head, TrialMadeBy, TrialNotes
from searchkit.core.run_logs import EVENTS, SEARCH_LOG, Epoch, Logged
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.core.state import decode_state, encode_state, snapshot
from searchkit.core.training import TrainState

if TYPE_CHECKING:
    from torch import Tensor


FORMAT = 1

"""The version of what is on disk. A run of another format is not resumed: an id does not include the code's version."""


BUILD_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, Infeasible, LookupError, RuntimeError, TypeError, ValueError
)  # fmt: skip

"""What a family's build, the edits or torch may raise on an architecture that is not that of the weights."""


class Run:
    """One directory of artifacts with the settings that made them.

    Attributes:
        path: The directory.
        config: What run.json holds.
    """

    def __init__(self, path: Path, config: dict[str, JSON]) -> None:
        self.path = path
        self.config = config

    # ── making and opening ──────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def create(cls, root: Path, name: str, config: Mapping[str, JSON], *, splits: Arrays | None = None) -> Run:
        """Make a new run on disk: whole, or not at all.

        Args:
            root: The folder of runs; it is made if it is not there.
            name: Of the run, and of its folder.
            config: What is asked for, on which data and machine.
            splits: Row indices by split, kept with the run.

        Raises:
            BadInput: The name is no folder's, there is a run of this name, or the folder cannot be written.
        """
        file_locks()
        if not name or name != Path(name).name or name.startswith("."):
            raise BadInput(f"'{name}' is not a name for a run; it is one folder's name, such as cnn-digits-1.")
        path = root / name
        whole = {"format": FORMAT, "name": name, **freeze(config)}
        try:
            root.mkdir(parents=True, exist_ok=True)
            # The folder inside of the temporary one is moved, and what is left of that is removed. A rename replaces no
            # folder that has files in it, so a run of this name is safe.
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as made:
                for folder in ("artifacts", "rungs"):
                    (Path(made) / "run" / folder).mkdir(parents=True)
                if splits is not None:
                    with open(Path(made) / "run" / "splits.npz", "wb") as file:
                        np.savez_compressed(file, train=splits["train"], val=splits["val"], test=splits["test"])
                write_atomically(Path(made) / "run" / "run.json", to_json(whole))
                (Path(made) / "run").rename(path)  # whole, or not there: a kill leaves no half-made run
        except OSError as error:
            if path.exists():
                raise BadInput(
                    f"A run named '{name}' exists in {root}; go on with it by --resume {name}, or give another --name."
                ) from error
            raise BadInput(
                f"Cannot write the run folder {path}: {error.strerror}; give a --runs folder that can be."
            ) from error
        return cls(path, whole)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run on disk. Raises BadInput if there is none, it cannot be read, or it is of another format."""
        file = path / "run.json"
        if not path.is_dir():
            known = sorted(p.parent.name for p in path.parent.glob("*/run.json")) if path.parent.is_dir() else []
            raise BadInput(
                f"No run named '{path.name}' in {path.parent}; "
                + (f"the runs there are {', '.join(known)}." if known else "there are none: start one with search.")
            )
        config = read_json(file, f"the run '{path.name}'")
        thaw(Head, config, file=name_in_run(file, path.name))
        if config.get("format") != FORMAT:
            raise BadInput(
                f"The run '{path.name}' has format {config.get('format')}; this version reads format {FORMAT}. "
                "Start a new run, or use the version of searchkit that made it."
            )
        return cls(path, config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing: one process at a time may. Raises BadInput if another one does.

        The lock is the system's (`fcntl.flock`), so that it ends with its process, however that ends; POSIX only.
        """
        # "a+" and not "w": opening must not erase the number of the process that holds the lock.
        with open(self.path / "lock", "a+", encoding="utf-8") as handle:
            try:
                lock(handle)
            except OSError as error:
                handle.seek(0)
                raise BadInput(
                    f"The run '{self.name}' is being written by process {handle.read().strip() or '?'}; "
                    "wait for it to end, or stop it."
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def writer(self) -> str | None:
        """The number of the process that is writing the run now, "?" if it has not said; None if there is none."""
        file = self.path / "lock"
        if not file.exists():
            return None
        fcntl = file_locks()
        with open(file, encoding="utf-8") as handle:
            try:
                # Shared, so that two that look do not refuse each other; it ends when the file is closed.
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return handle.read().strip() or "?"
        return None

    # ── what it holds ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """The run's, as it was made; the folder may have been moved since."""
        return str(self.config["name"])

    def splits(self) -> Arrays:
        """Row indices by split as they were when the run began; empty if it was made without."""
        file = self.path / "splits.npz"
        if not file.exists():
            return {}
        way_out = "delete it if the data are as they were (their fingerprint is checked), or start a new run"
        with readable(file, way_out), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return dict(stored)

    @property
    def bundle(self) -> Path:
        """The folder of what is shipped; it may not be there."""
        return self.path / "bundle"

    def artifact_dir(self, id: str) -> Path:
        """The folder of an artifact; it may not be there, or not be whole."""
        return self.path / "artifacts" / id

    def has(self, id: str) -> bool:
        """Whether there is a whole artifact of this id."""
        return (self.artifact_dir(id) / "artifact.json").exists()

    def load(self, id: str) -> Artifact:
        """The artifact of this id. Raises BadInput if it is missing or damaged."""
        file = self.artifact_dir(id) / "artifact.json"
        found = read_json(file, f"artifact {id} of the run '{self.name}'")
        plain: Any = thaw(ArtifactFile, found, file=name_in_run(file, self.name))
        # A folder that was copied under another name, for example.
        if plain["id"] != id:
            raise BadInput(f"{file} is of the artifact '{plain['id']}', not of '{id}'; put the right file back.")
        if plain["made_by"]["stage"] == "Trial":
            thaw(TrialMadeBy, plain["made_by"], file=name_in_run(file, self.name, "made_by"))
            thaw(TrialNotes, plain["notes"], file=name_in_run(file, self.name, "notes"))
        # edits stay the lists that JSON gives: they are replayed, never hashed
        known = {name: plain[name] for name in ArtifactFile.__annotations__}
        metrics = Figures(plain["metrics"], name_in_run(file, self.name))
        return Artifact(**{**known, "edits": tuple(plain["edits"]), "metrics": metrics})

    def notes(self, artifact: Artifact, name: str) -> JSON:
        """One note of an artifact. Raises BadInput if it is missing."""
        if name not in artifact.notes:
            raise self._missing(artifact, f"notes.{name}")
        return artifact.notes[name]

    def _missing(self, artifact: Artifact, field: str) -> BadInput:
        file = name_in_run(self.artifact_dir(artifact.id) / "artifact.json", self.name)
        return BadInput(f"In {file}, the field '{field}' is missing; restore the file.")

    def artifacts(self) -> dict[str, Artifact]:
        """All whole artifacts by id, in order of id."""
        found = sorted(p.parent.name for p in (self.path / "artifacts").glob("*/artifact.json"))
        return {id: self.load(id) for id in found}

    def trials(self) -> list[Artifact]:
        """The artifacts that the search made, in order of their trial's number."""
        found = [a for a in self.artifacts().values() if a.stage == "Trial"]
        return sorted(found, key=lambda a: int(a.made_by["number"]))

    def trial(self, number: int) -> Artifact:
        """The artifact of a trial. Raises BadInput if no trial of this number has finished."""
        trials = {int(a.made_by["number"]): a for a in self.trials()}
        if number not in trials:
            numbers = ", ".join(map(str, sorted(trials))) or "none"
            raise BadInput(f"The run '{self.name}' has no finished trial {number}; the finished ones are {numbers}.")
        return trials[number]

    def file(self, artifact: Artifact, role: str) -> Path:
        """The path of one of its files: "weights", "model", "scores" or "log". Raises BadInput if it has none such."""
        if role not in artifact.files:
            raise self._missing(artifact, f"files.{role}")
        return self.artifact_dir(artifact.id) / artifact.files[role]

    def save(
        self,
        artifact: Artifact,
        *,
        weights: Mapping[str, Tensor] | None = None,
        model: Path | None = None,
        scores: np.ndarray | None = None,
        log: Sequence[dict[str, JSON]] = (),
    ) -> Artifact:
        """Write an artifact whole, or not at all.

        Args:
            artifact: Its `files` are filled in here.
            weights: By name, as of `state_dict`.
            model: An ONNX file, which is copied.
            scores: (n,) of val.
            log: The learning curve, a row an epoch.

        Returns:
            The artifact with its files.
        """
        folder = self.artifact_dir(artifact.id)
        folder.mkdir(exist_ok=True)
        # first: an artifact that is written again is not whole until it is
        (folder / "artifact.json").unlink(missing_ok=True)
        files: dict[str, str] = {}
        if weights is not None:
            from safetensors.torch import save_file

            files["weights"] = "weights.safetensors"
            save_file(snapshot(weights), folder / "weights.safetensors")
        if model is not None:
            files["model"] = "model.onnx"
            shutil.copyfile(model, folder / "model.onnx")
        if scores is not None:
            files["scores"] = "scores.npy"
            np.save(folder / "scores.npy", scores, allow_pickle=False)
        if log:
            files["log"] = "log.jsonl"
            lines = "".join(to_json(row, indent=None) + "\n" for row in log)
            (folder / "log.jsonl").write_text(lines, encoding="utf-8")
        # last: what has this file is whole
        whole = replace(artifact, files=files)
        write_atomically(folder / "artifact.json", to_json(freeze(whole)))
        return whole

    def weights(self, artifact: Artifact) -> dict[str, Tensor]:
        """The weights by name, on the CPU. Raises BadInput if the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.file(artifact, "weights")
        with readable(file, self._way_out(artifact), SafetensorError):
            return load_file(file)

    def scores(self, artifact: Artifact) -> np.ndarray:
        """(n,) float64 of val, one an example. Raises BadInput if the file is damaged."""
        file = self.file(artifact, "scores")
        with readable(file, self._way_out(artifact)):
            return np.asarray(np.load(file, allow_pickle=False))

    def log(self, artifact: Artifact) -> list[dict[str, JSON]]:
        """The learning curve, a row an epoch; empty if nothing was trained. Raises BadInput if the file is damaged."""
        if "log" not in artifact.files:
            return []
        file = self.file(artifact, "log")
        with readable(file, self._way_out(artifact)), open(file, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
            # `save` writes no log without rows, so an empty file was cut short.
            if not rows:
                raise ValueError("it is empty")
        for number, row in enumerate(rows, 1):
            thaw(Epoch, row, file=name_in_run(file, self.name, f"line {number}"))
        return rows

    def _way_out(self, artifact: Artifact) -> str:
        return f"delete the folder artifacts/{artifact.id} and resume the run '{self.name}'"

    def line(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and its ancestors, oldest first."""
        found = [artifact]
        while found[0].parent is not None:
            found.insert(0, self.load(found[0].parent))
        return found

    # ── small files ─────────────────────────────────────────────────────────────────────────────────────────────────

    def write_json(self, name: str, value: JSON) -> None:
        """Write a small file of the run, whole or not at all. name: such as "pace.json"."""
        write_atomically(self.path / name, to_json(freeze(value)))

    def read_json(self, name: str, kind: Any = dict[str, Any]) -> JSON:
        """A JSON file of the run, as `write_json` wrote it; None if there is no such file.

        Args:
            name: Such as "pace.json".
            kind: What the file is checked against; see `searchkit.core.run_files`.

        Raises:
            BadInput: It cannot be read, or a field is missing, of another type or out of range.
        """
        file = self.path / name
        if not file.exists():
            return None
        return thaw(kind, read_json(file, f"{name} of the run '{self.name}'"), file=self.named(name))

    def named(self, name: str, part: str = "") -> str:
        """A file of the run, for a message."""
        return name_in_run(self.path / name, self.name, part)

    def append_line(self, name: str, row: Mapping[str, JSON]) -> None:
        """Append one JSON line and wait until it is on disk."""
        append_row(self.path / name, freeze(row))

    def lines(self, name: str) -> list[dict[str, JSON]]:
        """The rows of a file of JSON lines; torn lines are left out. Raises BadInput if a row of the log is not one."""
        file = self.path / name
        found = read_rows(file)
        for number, row in enumerate(found, 1):
            if "event" in row or name == SEARCH_LOG:
                event = EVENTS.get(str(row.get("event")), Logged)
                thaw(event, row, file=name_in_run(file, self.name, f"line {number}"))
        return found

    # ── the state of a training between rungs ───────────────────────────────────────────────────────────────────────

    def save_state(self, key: str, state: TrainState) -> None:
        """Keep where a training stands between two rungs. key: the trial's, such as "cnn-7"."""
        write_atomically(self._state_file(key), encode_state(state))

    def load_state(self, key: str) -> TrainState | None:
        """What `save_state` kept under this key; None if there is none. Raises BadInput if it is damaged."""
        from safetensors import SafetensorError

        file = self._state_file(key)
        if not file.exists():
            return None
        with readable(file, "delete it: its trial starts again", SafetensorError):
            data = file.read_bytes()
            if not data:
                raise ValueError("it is empty")
            return decode_state(data)

    def drop_state(self, key: str) -> None:
        """Remove what `save_state` kept under this key, if anything."""
        self._state_file(key).unlink(missing_ok=True)

    def _state_file(self, key: str) -> Path:
        return self.path / "rungs" / f"{key}.safetensors"
