"""The nouns that pass between the parts of searchkit, and the protocols that plug-ins meet.

Everything here is plain data or a protocol. Importing this module imports neither torch nor optuna, so that
`--help` and a usage error stay quick.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

JSON: TypeAlias = Any
"""What `json.dumps` takes: dict, list, str, int, float, bool or None."""

Arrays: TypeAlias = dict[str, np.ndarray]
"""Arrays by port name; the first axis of each is the example, unless its Port says otherwise."""

Split: TypeAlias = Literal["train", "val", "test"]
Device: TypeAlias = Literal["cpu", "cuda"]


# ── Failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class SearchkitError(Exception):
    """A failure with one clear sentence for the user; `exit_status` is what the command line ends with."""

    exit_status = 1


class BadInput(SearchkitError):
    """What the user gave cannot be used: the sentence says what, its value, what is allowed and what to do."""

    exit_status = 2


class NotInstalled(BadInput):
    """What was asked for needs a package that is not here; the sentence says which, and how to install it."""


class NothingFeasible(SearchkitError):
    """No candidate meets the limits."""

    exit_status = 3


class GateFailed(SearchkitError):
    """A proof failed: the export disagrees with the model, or a stage did not do what it promises."""

    exit_status = 4


class Inapplicable(Exception):
    """A stage has nothing to act on in this network. The line goes on without it, and the report says why."""


class Infeasible(Exception):
    """This architecture cannot exist for this data or budget. It ends one trial, never the search."""


# ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a network. `shape` leaves out the axis of the examples; None marks an axis that varies.

    How examples lie in it (see `searchkit.layout`): one entry each along `axis`; or, where `counted_by` names another
    port (shape (), int64), as many as that says, one example after the other; or, not batched, all share all of it. An
    output has one entry an example along its first axis.

    steps: what the one axis that varies counts. Ports of which it is the same are of one length, others need not be: a
    text and its translation are not.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    batched: bool = True
    axis: int = 0
    counted_by: str | None = None
    steps: str = "length"


@dataclass(frozen=True, slots=True)
class DataSpec:
    """All that a space may know of the data: what the network takes (after the task's frontend) and what it gives.

    modality is "tabular" (features,), "image" (C, H, W), "voxels" (C, D, H, W), "series" (C, L), "tokens" (L,) int64,
    "graph", or "noise" (Z,), drawn from the unit Gaussian. A series or token input whose rows differ in length is
    followed by a second port `lengths`, shape (), int64: the valid steps of each row. A graph is `nodes`,
    (N, features), and `edges`, (2, E) int64, from the first row's nodes to the second's. Either all examples share one,
    and each is the node that is asked for, `query`, (); or each example has its own, with nodes numbered from 0, and
    `n_nodes` and `n_edges`, (), count them. Where tokens are answered by a text of its own, the last input is
    `previous`, (T,) int64, the answer one step late: it begins with the mark, the last of the n_classes tokens, which
    ends an answer too. The one output is "logits" (n_classes,), or (L, n_classes) where every step is answered,
    "values" (n_targets,), "forecast" (K, H), the next H steps of the first K channels of a series on the input's scale,
    "reconstruction", of the input's shape, "action_values" (n_actions,), of which an agent that plays takes the
    largest, or "sample": an example such as those of train, made of noise, or of an example of another kind.
    augmentations: those that such data have; a training asks for some of them.
    """

    modality: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    n_classes: int = 0
    vocabulary: int = 0
    augmentations: tuple[str, ...] = ()

    @property
    def reconstructs(self) -> bool:
        return self.outputs[0].name == "reconstruction"

    @property
    def by_step(self) -> bool:
        """Whether there is an answer for each step, (L, n_classes), instead of one a row."""
        return self.outputs[0].name == "logits" and len(self.outputs[0].shape) == 2

    @property
    def self_taught(self) -> bool:
        """Whether the inputs alone are something to learn from, before the one answer a row: tokens of each other."""
        return self.modality == "tokens" and not self.by_step

    @property
    def writes(self) -> bool:
        """Whether the answer is a text of its own, (T, n_classes): which token comes after each of `previous`."""
        return any(port.name == "previous" for port in self.inputs)

    @property
    def acts(self) -> bool:
        """Whether the answers are played, and what is scored is how the play went."""
        return self.outputs[0].name == "action_values"

    @property
    def generates(self) -> bool:
        """Whether an answer has no truth of its own: all answers together should be like the examples."""
        return self.outputs[0].name == "sample"

    @property
    def forecasts(self) -> bool:
        return self.outputs[0].name == "forecast"

    @property
    def varies_in_length(self) -> bool:
        return any(port.name == "lengths" for port in self.inputs)


@dataclass(frozen=True, slots=True)
class Goal:
    """The metric that the search improves. Its value is the mean of per-example scores, or the root of that mean.

    span: of a metric that is maximized, from useless to good, in its own unit: 1 for a share, 450 for a game in which
    chance makes 25 points and a good player 475. A tolerated drop is a share of it. most: a value that it cannot
    exceed, though scores of single examples may.
    unit: (K,), what an answer's entries along its first axis are measured in: an error is divided by it before anything
    else, so that channels of different units weigh alike. () where answers are measured in their own unit."""

    metric: str
    direction: Literal["maximize", "minimize"]
    root: bool = False
    span: float = 1.0
    most: float | None = None
    unit: tuple[float, ...] = ()

    def value(self, scores: np.ndarray) -> float:
        """scores: (n,) float64, one an example."""
        mean = float(np.mean(scores))
        return math.sqrt(mean) if self.root else mean

    def standard_error(self, scores: np.ndarray, reference: np.ndarray) -> float:
        """Of the difference between two values over the same examples, in pairs: (n,) each."""
        error = float(np.std(scores - reference)) / math.sqrt(len(scores))
        before = self.value(reference)
        return error / (2 * before) if self.root and before > 0 else error  # of the root, to first order

    def better(self, a: float, b: float) -> bool:
        return a > b if self.direction == "maximize" else a < b

    def loss(self, value: float) -> float:
        """`value` on a scale where smaller is better."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse is still as good. max_drop: of a metric that is maximized, a share of its span (.005 is half a
    point of accuracy). max_rise: of an error, relative (.02 is 2 % of it)."""

    goal: Goal
    max_drop: float = 0.005
    max_rise: float = 0.02

    @property
    def shown(self) -> str:
        if self.goal.direction == "maximize":
            return f"{self.max_drop * self.goal.span:.3g}"
        return f"{self.max_rise:.3g} of it"

    def admits(self, value: float, reference: float, *, error: float = 0.0) -> bool:
        """error: the standard error of the difference. A smaller one passes too, for the examples cannot tell it from
        none."""
        slack = 1e-9  # half a point is half a point in floating point too
        if abs(value - reference) <= error:
            return True
        if self.goal.direction == "maximize":
            return value >= reference - self.max_drop * self.goal.span - slack
        return value <= reference * (1 + self.max_rise) + slack

    def admits_in_pairs(self, scores: np.ndarray, reference: np.ndarray) -> bool:
        """As `admits`, from the scores of the same examples: (n,) each."""
        error = self.goal.standard_error(scores, reference)
        return self.admits(self.goal.value(scores), self.goal.value(reference), error=error)


@dataclass(frozen=True, slots=True)
class Batch:
    """inputs: as `DataSpec.inputs`, in order, on the device. target: what the task's loss wants, e.g. (B, n_classes)
    soft labels, (B, n_targets) standardised values, or the clean input."""

    inputs: tuple[Tensor, ...]
    target: Tensor


@dataclass(frozen=True)
class Evaluation:
    """A model on one split, by the task's own measure.

    metrics: every metric of the task, the goal's among them. scores: (n,) float64, the goal is `goal.value(scores)`.
    decisions: (n,) class indices, or (n, …) values: two models agree on an example when their decisions do.
    targets: (n,) or (n, …), the truth on the scale of `decisions`; (0,) where nobody knows it: of an agent's actions.
        Where the spec generates, examples that are not paired with them.
    """

    metrics: dict[str, float]
    scores: np.ndarray
    decisions: np.ndarray
    targets: np.ndarray


class Predict(Protocol):
    """Raw arrays in, answers out: a torch module and an ONNX Runtime session alike."""

    def __call__(self, inputs: Arrays) -> Arrays: ...


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; sampled beside its architecture and stored with the artifact."""

    objective: str = ""  # one of the task's own losses by name, where it has several; "" is its first
    optimizer: str = "adamw"  # sgd, momentum, rmsprop, adamw
    momentum: float = 0.9  # of momentum, and of adamw's mean gradient
    lr: float = 2e-3
    schedule: str = "cosine"  # constant, cosine, linear, step
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 0.01  # L2; decoupled for adamw
    l1: float = 0.0  # coefficient of the sum of |weights|
    clip_norm: float = 1.0  # global gradient norm; 0 clips nothing
    batch_size: int = 64
    epochs: int = 20
    augment: tuple[str, ...] = ()  # crop, flip, cutout for images; jitter, scale, shift for series
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution; 0 mixes nothing
    ema: float = 0.0  # decay a step of the averaged weights; 0 averages nothing
    patience: int = 0  # epochs without a better val metric before stopping; 0 never stops early
    pretrain_epochs: int = 0  # on the inputs alone, before the others (see SelfTaught); 0 for none


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[JSON, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """A number in [low, high], on a logarithmic scale where `log`."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class TrainingSpace:
    """Defaults that work, and the fields of Training that the search may vary, by field name."""

    default: Training = field(default_factory=Training)
    ranges: Mapping[str, Choice | Between] = field(default_factory=dict)


@dataclass
class TrainState:
    """Where a training stands at the end of an epoch: enough to go on, bit for bit, in another process.

    tensors: "weights.*", "ema.*", "optimizer.*"; numbers: JSON.
    """

    epoch: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class FitPlan:
    """One call of fit: from the epoch where the state stands to `until`, on a schedule over `training.epochs`."""

    training: Training
    seed: int
    until: int  # epochs
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16
    channels_last: bool = False
    seconds: float = math.inf  # stop at the first step after this, with what there is
    loss: Callable[[nn.Module, Batch], Tensor] | None = None  # None: the task's own loss
    validate: bool = False  # evaluate on val after every epoch, for learning curves and early stopping
    recovers: bool = False  # the network is good already, but for what a stage did to it: there is little to explore


class Trial(Protocol):
    """What `Space.sample` may ask of a trial: Optuna's names and meanings."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Task(Protocol):
    """Data with its loss, metric and splits. Search and stages see train and val; test is for the evidence."""

    name: str
    spec: DataSpec
    goal: Goal
    inputs: tuple[Port, ...]  # raw: what a bundle takes
    answers: tuple[Port, ...]  # what a bundle gives: probabilities, values in their own unit, a reconstruction
    labels: tuple[str, ...]  # class names in order of index; () where there are no classes

    @property
    def fingerprint(self) -> str:
        """A digest of the data and their splits: a run is not resumed on other data."""

    def frontend(self) -> nn.Module:
        """Raw inputs (as tensors, in order) to model inputs: scaling, encoding. Exported as the head of the graph.
        Returns a Tensor, or a tuple of them where the spec has several inputs."""

    def answer(self) -> nn.Module:
        """Model output to answers: softmax, sigmoid, or back to the target's unit. Exported as the graph's tail."""

    def n_examples(self, split: Split) -> int: ...

    def splits(self) -> Arrays:
        """Row indices by split, ascending, in the order of the source: what a run keeps of how the data were split."""

    def raw(self, split: Split) -> Arrays:
        """Raw inputs by port name, all examples of the split, laid out as the ports say."""

    def batches(self, split: Split, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """One epoch. train: shuffled by `seed`, augmented, smoothed, mixed as `training` says; val: in order, plain."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar. Adds the model's own penalty (see Penalised)."""

    def match(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """The distillation loss that suits this task: a scalar, 0 where the student equals the teacher."""

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Train in place. The default is `searchkit.train.fit`."""

    def evaluate(self, predict: Predict, split: Split) -> Evaluation: ...

    def summary(self) -> dict[str, JSON]:
        """What was found: rows by split, shapes, classes, missing, duplicates, rows in train and test both."""

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """Everything as plain data; `searchkit.tasks.unpack` is the inverse, on this machine or another."""


@runtime_checkable
class Equipped(Protocol):
    """A task whose bundle needs more than the model to take what a person has: a tokenizer, a loop around the graph."""

    def equipment(self) -> dict[str, str]:
        """Files of the bundle, name to text, beside those that every bundle has, or in place of its run.py. Scripts
        import numpy, onnxruntime and each other alone."""


@runtime_checkable
class SelfTaught(Protocol):
    """A task whose inputs alone teach something, before their targets do. `Training.pretrain_epochs` asks for it."""

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        """A scalar: how badly the restorer of a network tells what was hidden of the inputs."""


@runtime_checkable
class Restorable(Protocol):
    """A network that can learn to tell what was hidden of its inputs."""

    def restorer(self) -> nn.Module:
        """A module over the network's own weights, and others that end with the pre-training: (B, L) bool, where tokens
        are hidden, and the network's inputs -> (n hidden, vocabulary) logits, row by row."""


@runtime_checkable
class Calibrated(Protocol):
    """A task whose answers are read by numbers that depend on the very file, such as the threshold of a score."""

    def calibrate(self, predict: Predict) -> dict[str, JSON]:
        """What the bundle's manifest says of the shipped file beside, from val alone. Of a threshold: "output", the
        answer that it is for; "threshold"; "above" and "below", what an example is; "quantile" and "of", of what."""


@runtime_checkable
class Comparing(Protocol):
    """A task's answer that is a comparison with what the network was given: exported, as any answer is."""

    def compare(self, output: Tensor, *model_inputs: Tensor) -> tuple[Tensor, ...]:
        """In place of `forward`: the task's answers, in order."""


@runtime_checkable
class Grouped(Protocol):
    """A task with examples that hang together (windows that share steps, recordings of one speaker), so that they do
    not count for as many as they are."""

    def groups(self, split: Split) -> np.ndarray | None:
        """(n,) whole numbers: examples with the same number are resampled together. None: each is by itself."""


@runtime_checkable
class Rivalled(Protocol):
    """A task that can be answered without a network, too: what one has to be better than."""

    def rivals(self) -> dict[str, Predict]:
        """By name, from what train and val tell; scored by `evaluate` as a network is."""


@runtime_checkable
class Bootstraps(Protocol):
    """A network of action values that says by itself what the state after an action is worth, which its own values are
    learnt from. Without it the largest of the target's values is."""

    def bootstrap(self, own_BA: Tensor, target_BA: Tensor, action_B: Tensor) -> Tensor:
        """(B,) from the values of the state after: the network's own and those of its older copy, the target; and the
        action, int64, that was taken there."""


@runtime_checkable
class Penalised(Protocol):
    """A network with a loss term of its own (a VAE's KL): read once after each forward pass in training mode."""

    def penalty(self) -> Tensor: ...


@runtime_checkable
class Variational(Protocol):
    """A network whose answer may be drawn, a VAE's from its code; in eval mode `forward` answers from the mean."""

    def draw(self, *inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """A drawn answer, and of each example the divergence of what it was drawn from to its prior, (B,) nats. None
        where this network draws nothing."""


@runtime_checkable
class Inspecting(Protocol):
    """A task that asks a network for more than its answers tell: the evidence has it of artifacts with weights."""

    def inspect(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics of the network itself, in eval mode on the CPU; none where it has none of them."""


@runtime_checkable
class Resumable(Protocol):
    """A network that goes on where an earlier call stopped (a decoder with its keys and values), so that a loop outside
    the exported graph gives it one step at a time. Its first input has the steps on its second axis.

    The exported file then takes `past`, (B, P, memory), the memories of the P ≥ 0 steps before, and gives `memory`,
    (B, L, memory), those of its own steps: with no past it computes what `forward` does."""

    @property
    def memory(self) -> int:
        """Numbers that a step leaves behind."""

    def resume(self, *inputs_and_past: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives for these steps after those of the past, and their memory."""


# ── Spaces ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits on what is shipped; None does not limit. `size_bytes` is the size of the exported file as the recipe
    would ship it, `latency_ms` the median at batch 1 on one thread."""

    size_bytes: int | None = None
    latency_ms: float | None = None
    params: int | None = None
    macs: int | None = None

    def breaches(self, cost: Mapping[str, float]) -> dict[str, float]:
        """By how much `cost` exceeds each limit, as a ratio above 1 less 1; empty when it fits."""
        return {
            name: cost[name] / limit - 1.0
            for name, limit in asdict(self).items()
            if limit is not None and name in cost and cost[name] > limit
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend. The rungs are at epochs/eta^(rungs-1), …, epochs/eta, epochs."""

    trials: int = 12
    epochs: int = 20
    rungs: int = 3
    eta: int = 3
    least_rung_steps: int = 100  # after 38, the ranks of 12 convolutional networks on digits were noise (measured)
    seconds: float = math.inf  # for the whole line, the stages after the search included

    def rung_epochs(self, steps_an_epoch: int) -> tuple[int, ...]:
        """The epochs at which trials are compared. A rung of fewer than `least_rung_steps` compares noise: it is left
        out, so that a small data set has fewer rungs than a large one."""
        epochs = sorted({max(1, round(self.epochs / self.eta**k)) for k in range(self.rungs)})
        return tuple(e for e in epochs if e * steps_an_epoch >= self.least_rung_steps or e == epochs[-1])


@dataclass(frozen=True)
class Space:
    """An architecture family, as a value. A file `spaces/<name>.py` that ends in `SPACE = Space(...)` is all of it.

    arch: a frozen dataclass of plain numbers, strings, bools and tuples of them. accepts: None, or the reason why this
    data is not for it. sample: the only place that calls `suggest_*`. build: knows no Optuna. points: published
    networks by name. skips: {check or stage: reason}, shown in the support matrix.
    """

    name: str
    arch: type
    accepts: Callable[[DataSpec], str | None]
    sample: Callable[[Trial, DataSpec], Any]
    build: Callable[[Any, DataSpec], nn.Module]
    training: TrainingSpace
    task: str  # the default task's name
    budget: Budget
    paper: str
    points: Mapping[str, Any] = field(default_factory=dict)
    skips: Mapping[str, str] = field(default_factory=dict)


# ── Artifacts and stages ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Artifact:
    """A model at rest: build(arch), replay the edits, load the weights; or the exported file alone.

    id: digest of the lineage. metrics: val metrics and costs, by name. notes: what the stage has to tell the report.
    files: role to file name inside the artifact's folder ("weights", "model", "scores", "log").
    """

    id: str
    space: str
    arch: dict[str, JSON]
    training: dict[str, JSON]
    edits: tuple[JSON, ...]
    made_by: dict[str, JSON]  # {"stage": name, **config}
    parent: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, JSON] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return str(self.made_by["stage"])


@runtime_checkable
class Stage(Protocol):
    """A frozen dataclass; calling it turns an artifact into its child. Its fields are hash key and report row."""

    def __call__(self, artifact: Artifact, ctx: Any) -> Artifact: ...


# ── Plain data ───────────────────────────────────────────────────────────────────────────────────────────────────────

T = TypeVar("T")


def freeze(value: Any) -> JSON:
    """A dataclass, or a nest of plain values, as JSON: tuples become lists, numpy scalars become numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: freeze(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): freeze(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def thaw(kind: type[T], plain: JSON) -> T:
    """The inverse of `freeze` for a dataclass whose fields are plain values or tuples of them.

    Raises BadInput where `plain` has a field that `kind` lacks, or lacks one that has no default."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - known)
    if unknown:
        raise BadInput(f"{kind.__name__} has no field '{unknown[0]}'; its fields are {', '.join(sorted(known))}.")
    try:
        return kind(**{name: _tuples(value) for name, value in plain.items()})
    except TypeError as error:
        raise BadInput(f"{kind.__name__} cannot be made from {plain}: {error}.") from error


def _tuples(value: JSON) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def digest(*parts: JSON) -> str:
    """12 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps([freeze(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: JSON) -> int:
    """A 31-bit seed that depends on every part and on nothing else."""
    return int(digest("seed", *parts)[:8], 16) & 0x7FFFFFFF


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock; `Deadline.after(math.inf)` never comes."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self.at - time.monotonic())
