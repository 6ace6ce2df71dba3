"""The Run is a directory, the only thing that passes between the parts; this module alone knows its paths.

An artifact's folder gets its `artifact.json` last, by rename, so that what can be listed is whole. Everything else that
is written here is written beside its place and renamed too: a kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from searchkit.types import (
    JSON,
    Arrays,
    Artifact,
    BadInput,
    Deadline,
    FitPlan,
    GateFailed,
    Limits,
    Resumable,
    Space,
    Stage,
    Task,
    Training,
    TrainState,
    derive_seed,
    digest,
    freeze,
    thaw,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from searchkit.runtime import Deployed
    from searchkit.train import Teacher

FORMAT = 1
"""The version of what is on disk. A run of another format is not resumed: an id does not include the code's version."""


RESUMED_ROWS = 32
"""Rows of val on which a file must go on from its memory."""


class Run:
    """One directory of artifacts with the settings that made them."""

    def __init__(self, path: Path, config: dict[str, JSON]) -> None:
        self.path = path
        self.config = config

    # ── making and opening ──────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def create(cls, root: Path, name: str, config: Mapping[str, JSON], *, splits: Arrays | None = None) -> Run:
        """splits: row indices by split, kept with the run. Raises BadInput where a run of this name exists or the
        folder cannot be written."""
        if not name or name != Path(name).name or name.startswith("."):
            raise BadInput(f"'{name}' is not a name for a run; it is one folder's name, such as cnn-digits-1.")
        path = root / name
        whole = {"format": FORMAT, "name": name, **freeze(config)}
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as made:
                for folder in ("artifacts", "rungs"):
                    (Path(made) / "run" / folder).mkdir(parents=True)
                if splits is not None:
                    with open(Path(made) / "run" / "splits.npz", "wb") as file:
                        np.savez_compressed(file, train=splits["train"], val=splits["val"], test=splits["test"])
                _write_atomically(Path(made) / "run" / "run.json", _to_json(whole))
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
        """Raises BadInput where there is no run, it cannot be read, or it is of another format."""
        file = path / "run.json"
        if not path.is_dir():
            known = sorted(p.parent.name for p in path.parent.glob("*/run.json")) if path.parent.is_dir() else []
            raise BadInput(
                f"No run named '{path.name}' in {path.parent}; "
                + (f"the runs there are {', '.join(known)}." if known else "there are none: start one with search.")
            )
        config = _read_json(file, f"the run '{path.name}'")
        if config.get("format") != FORMAT:
            raise BadInput(
                f"The run '{path.name}' has format {config.get('format')}; this version reads format {FORMAT}. "
                "Start a new run, or use the version of searchkit that made it."
            )
        return cls(path, config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time may write a run. Raises BadInput where another one does."""
        with open(self.path / "lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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

    # ── what it holds ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        return str(self.config["name"])

    def splits(self) -> Arrays:
        """Row indices by split as they were when the run began; empty where it was made without."""
        file = self.path / "splits.npz"
        if not file.exists():
            return {}
        way_out = "delete it where the data are as they were (their fingerprint is checked), or start a new run"
        with _readable(file, way_out), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return dict(stored)

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    def artifact_dir(self, id: str) -> Path:
        return self.path / "artifacts" / id

    def has(self, id: str) -> bool:
        return (self.artifact_dir(id) / "artifact.json").exists()

    def load(self, id: str) -> Artifact:
        plain = _read_json(self.artifact_dir(id) / "artifact.json", f"artifact {id} of the run '{self.name}'")
        try:
            # edits stay the lists that JSON gives: they are replayed, never hashed
            return Artifact(**{**plain, "edits": tuple(plain["edits"])})
        except (TypeError, KeyError) as error:
            raise BadInput(
                f"Artifact {id} of the run '{self.name}' is not whole ({error}); delete its folder and resume the run."
            ) from error

    def artifacts(self) -> dict[str, Artifact]:
        """All whole artifacts by id, in order of id."""
        found = sorted(p.parent.name for p in (self.path / "artifacts").glob("*/artifact.json"))
        return {id: self.load(id) for id in found}

    def trials(self) -> list[Artifact]:
        """The artifacts that the search made, in order of their trial's number."""
        found = [a for a in self.artifacts().values() if a.stage == "Trial"]
        return sorted(found, key=lambda a: int(a.made_by["number"]))

    def trial(self, number: int) -> Artifact:
        """Raises BadInput where no trial of this number finished."""
        trials = {int(a.made_by["number"]): a for a in self.trials()}
        if number not in trials:
            numbers = ", ".join(map(str, sorted(trials))) or "none"
            raise BadInput(f"The run '{self.name}' has no finished trial {number}; the finished ones are {numbers}.")
        return trials[number]

    def file(self, artifact: Artifact, role: str) -> Path:
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
        """Write an artifact whole, or not at all. `model` is copied."""
        folder = self.artifact_dir(artifact.id)
        folder.mkdir(exist_ok=True)
        files: dict[str, str] = {}
        if weights is not None:
            from safetensors.torch import save_file

            files["weights"] = "weights.safetensors"
            # distinct, contiguous storage: safetensors refuses views that share memory
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, folder / "weights.safetensors"
            )
        if model is not None:
            files["model"] = "model.onnx"
            shutil.copyfile(model, folder / "model.onnx")
        if scores is not None:
            files["scores"] = "scores.npy"
            np.save(folder / "scores.npy", scores, allow_pickle=False)
        if log:
            files["log"] = "log.jsonl"
            (folder / "log.jsonl").write_text("".join(_to_json(row, indent=None) + "\n" for row in log))
        whole = replace(artifact, files=files)
        _write_atomically(folder / "artifact.json", _to_json(freeze(whole)))
        return whole

    def weights(self, artifact: Artifact) -> dict[str, Tensor]:
        """Raises BadInput where the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.file(artifact, "weights")
        with _readable(file, self._way_out(artifact), SafetensorError):
            return load_file(file)

    def scores(self, artifact: Artifact) -> np.ndarray:
        """(n,) of val, one an example. Raises BadInput where the file is damaged."""
        file = self.file(artifact, "scores")
        with _readable(file, self._way_out(artifact)):
            return np.asarray(np.load(file, allow_pickle=False))

    def log(self, artifact: Artifact) -> list[dict[str, JSON]]:
        """The learning curve; empty where nothing was trained. Raises BadInput where the file is damaged."""
        if "log" not in artifact.files:
            return []
        file = self.file(artifact, "log")
        with _readable(file, self._way_out(artifact)):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            if not rows:
                raise ValueError("it is empty")
            return rows

    def _way_out(self, artifact: Artifact) -> str:
        return f"delete the folder {self.artifact_dir(artifact.id)} and resume the run"

    def line(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and its ancestors, oldest first."""
        found = [artifact]
        while found[0].parent is not None:
            found.insert(0, self.load(found[0].parent))
        return found

    # ── small files ─────────────────────────────────────────────────────────────────────────────────────────────────

    def write_json(self, name: str, value: JSON) -> None:
        _write_atomically(self.path / name, _to_json(freeze(value)))

    def read_json(self, name: str) -> JSON:
        """None where there is no such file; BadInput where it cannot be read."""
        file = self.path / name
        return _read_json(file, f"{name} of the run '{self.name}'") if file.exists() else None

    def append_line(self, name: str, row: Mapping[str, JSON]) -> None:
        """Append one JSON line and wait until it is on disk."""
        file = self.path / name
        with open(file, "ab+") as handle:
            if handle.tell() and _last_byte(handle) != b"\n":
                handle.write(b"\n")  # a kill tore the last line: it stays alone on its line and is skipped
            handle.write((_to_json(freeze(row), indent=None) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())

    def lines(self, name: str) -> list[dict[str, JSON]]:
        """The rows of a file of JSON lines; torn lines are left out."""
        file = self.path / name
        rows = []
        for line in file.read_text(errors="replace").splitlines() if file.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return [row for row in rows if isinstance(row, dict)]

    # ── the state of a training between rungs ───────────────────────────────────────────────────────────────────────

    def save_state(self, key: str, state: TrainState) -> None:
        from safetensors.torch import save

        about = {"epoch": str(state.epoch), "numbers": _to_json(freeze(state.numbers), indent=None)}
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.tensors.items()}
        _write_atomically(self.path / "rungs" / f"{key}.safetensors", save(tensors, metadata=about))

    def load_state(self, key: str) -> TrainState | None:
        """None where there is none."""
        from safetensors import SafetensorError, safe_open

        file = self.path / "rungs" / f"{key}.safetensors"
        if not file.exists():
            return None
        with (
            _readable(file, "delete it: its trial starts again", SafetensorError),
            safe_open(file, framework="pt") as opened,
        ):
            about = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        return TrainState(int(about["epoch"]), tensors, json.loads(about["numbers"]))

    def drop_state(self, key: str) -> None:
        (self.path / "rungs" / f"{key}.safetensors").unlink(missing_ok=True)


@dataclass
class Context:
    """What a search or a stage may use."""

    run: Run
    task: Task
    spaces: Callable[[str], Space]
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    limits: Limits = field(default_factory=Limits)
    deadline: Deadline = field(default_factory=lambda: Deadline.after(math.inf))
    echo: Callable[[str], None] = print
    threads: int = 1  # of the training inside a stage, which has the machine for itself
    epoch_scale: float = 1.0  # the pipeline lowers it where the deadline leaves less than the stages would like

    # ── from an artifact to a network ───────────────────────────────────────────────────────────────────────────────

    def network(self, artifact: Artifact) -> nn.Module:
        """build(arch), replay the edits, load the weights; in eval mode, on the CPU."""
        from searchkit.edits import apply_edits_

        space = self.spaces(artifact.space)
        net = space.build(thaw(space.arch, artifact.arch), self.task.spec)
        apply_edits_(net, artifact.edits)
        net.load_state_dict(self.run.weights(artifact))
        return net.eval()

    def source(self, artifact: Artifact) -> Artifact:
        """The artifact itself, or its nearest ancestor that has weights: the float network behind a quantized file."""
        while "weights" not in artifact.files:
            assert artifact.parent is not None
            artifact = self.run.load(artifact.parent)
        return artifact

    def deployed(self, net: nn.Module) -> Deployed:
        from searchkit.runtime import deploy

        return deploy(self.task.frontend(), net, self.task.answer())

    def model_path(self, artifact: Artifact) -> Path:
        return self.run.file(artifact, "model")

    def training(self, artifact: Artifact) -> Training:
        return thaw(Training, artifact.training)

    def example(self, n: int = 2) -> Arrays:
        """n examples of val, the fullest where they differ in size. Two are enough to trace a network with."""
        from searchkit import layout

        ports, raw = self.task.inputs, self.task.raw("val")
        return layout.take(ports, raw, layout.fullest(ports, raw, n))

    # ── from a network to an artifact ───────────────────────────────────────────────────────────────────────────────

    def child(self, parent: Artifact, stage: Stage, *, edits: tuple[JSON, ...] | None = None) -> Artifact:
        """The draft of what `stage` makes of `parent`. Its id is the digest of its lineage, known before any work."""
        made_by = {"stage": type(stage).__name__, **freeze(stage)}
        return Artifact(
            id=digest(FORMAT, parent.id, made_by, self.seed),
            space=parent.space,
            arch=parent.arch,
            training=parent.training,
            edits=parent.edits if edits is None else edits,
            made_by=made_by,
            parent=parent.id,
        )

    def save(
        self,
        draft: Artifact,
        net: nn.Module | None,
        *,
        model: Path | None = None,
        log: list[dict[str, JSON]] | None = None,
        notes: Mapping[str, JSON] | None = None,
    ) -> Artifact:
        """Export `net` (or take the file `model`), prove it on every example of val, measure it, write the artifact.

        Raises GateFailed where the file disagrees with the network.
        """
        from searchkit import measure
        from searchkit.runtime import OnnxPredictor

        weights = None if net is None else net.state_dict()
        metrics: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            if net is not None:
                model = Path(folder) / "model.onnx"
                metrics |= self.export(net, model)
                metrics |= {"params": measure.params(net), "macs": self.macs(net)}
            assert model is not None
            evaluation = self.task.evaluate(OnnxPredictor(model), "val")
            metrics |= evaluation.metrics | {"size_bytes": measure.size_bytes(model)}
            whole = replace(draft, metrics=metrics, notes={**draft.notes, **freeze(notes or {})})
            return self.run.save(whole, weights=weights, model=model, scores=evaluation.scores, log=log or ())

    def export(self, net: nn.Module, path: Path) -> dict[str, float]:
        """Write `net` as one ONNX file and compare the two on every example of val; a resumable file must also go on
        from its memory as if it had not stopped. Raises GateFailed."""
        from searchkit import layout, onnxfile
        from searchkit.parity import parity, resumption
        from searchkit.runtime import OnnxPredictor, TorchPredictor

        deployed = self.deployed(net.cpu())
        onnxfile.export(deployed, self.task.inputs, self.task.answers, path, example=self.example())
        torch_predictor = TorchPredictor(deployed, self.task.inputs, self.task.answers)
        ports, val = self.task.inputs, self.task.raw("val")
        proof = parity(torch_predictor, OnnxPredictor(path), val, ports=ports)
        if not proof.agrees:
            raise GateFailed(
                f"The exported file disagrees with the network: the answers differ by up to {proof.max_abs:.3g} "
                f"over {proof.n} examples of val. The file is not used."
            )
        if isinstance(deployed, Resumable):
            rows = layout.take(self.task.inputs, self.task.raw("val"), slice(0, RESUMED_ROWS))
            resumed = resumption(path, rows)
            if not resumed.agrees:
                raise GateFailed(
                    "The exported file cannot go on from its memory: in two calls the answers differ by up to "
                    f"{resumed.max_abs:.3g} from those in one. The file is not used."
                )
        return {"max_abs_diff": proof.max_abs}

    def scores(self, net: nn.Module) -> np.ndarray:
        """(n,) of val: the network's score on each example, by the lines that score its exported file."""
        from searchkit.runtime import TorchPredictor

        predictor = TorchPredictor(self.deployed(net), self.task.inputs, self.task.answers)
        return self.task.evaluate(predictor, "val").scores

    def macs(self, net: nn.Module) -> int:
        """Multiply-accumulates of the network for one example."""
        from searchkit import measure

        return measure.macs(net, self.model_inputs(1))

    def model_inputs(self, n: int) -> tuple[Tensor, ...]:
        """n examples of val, as `example` takes them, as the network sees them: after the frontend."""
        import torch

        raw = self.example(n)
        with torch.no_grad():
            out = self.task.frontend()(*(torch.from_numpy(np.ascontiguousarray(raw[p.name])) for p in self.task.inputs))
        return out if isinstance(out, tuple) else (out,)

    # ── training inside a stage ─────────────────────────────────────────────────────────────────────────────────────

    def recover(
        self,
        net: nn.Module,
        parent: Artifact,
        *,
        epochs: int,
        teacher: Teacher | None = None,
        lr_scale: float = 0.5,
        seed: int = 0,
        share: float = 1.0,
    ) -> list[dict[str, JSON]]:
        """Train `net` in place for `epochs` (fewer where the deadline asks for it), as its parent was trained; with a
        teacher as `train.distillation` says. share: of the stage's time that is left, for a stage that trains again
        afterwards. Returns the learning curve.

        Mixup, early stopping and pre-training are left out: a short recovery that starts from good weights wants the
        plain data.
        """
        import torch

        from searchkit.train import distillation

        before = self.training(parent)
        planned = max(1, round(epochs * self.epoch_scale))
        training = replace(
            before, epochs=planned, lr=before.lr * lr_scale, patience=0, mixup=0.0, ema=0.0, pretrain_epochs=0
        )
        plan = FitPlan(
            training=training,
            seed=derive_seed(self.seed, parent.id, "recover", seed),
            until=planned,
            device=self.device,
            precision=self.precision,
            channels_last=self.channels_last,
            seconds=share * self.deadline.left(),
            loss=None if teacher is None else distillation(self.task, teacher, self.device),
            recovers=True,
        )
        before_threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            state = self.task.fit(net, plan, TrainState())
        finally:
            torch.set_num_threads(before_threads)
        # contiguous again: the order of sums, and so the last bits, depend on the layout
        net.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return list(state.numbers["curve"])


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder whole, or not at all. Raises BadInput where it cannot be written."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise BadInput(f"Cannot write the folder {target}: {error.strerror}; give another one.") from error


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _to_json(value: JSON, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=True)


def _write_atomically(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_json(file: Path, what: str) -> Any:
    try:
        value = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{file} is missing, so {what} cannot be read; resume needs a whole run folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{file} is damaged ({error}), so {what} cannot be read; restore it or start a new run."
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} holds {type(value).__name__}, not an object, so {what} cannot be read.")
    return value


@contextmanager
def _readable(file: Path, way_out: str, *also: type[Exception]) -> Iterator[None]:
    """What reading a missing or a torn file raises, as BadInput; `also` is what the reader at hand adds to that."""
    torn: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, BadZipFile, *also)
    try:
        yield
    except torn as error:
        raise BadInput(f"{file} cannot be read ({error}); {way_out}.") from error


def _last_byte(handle: IO[bytes]) -> bytes:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)
