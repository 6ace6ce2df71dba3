"""The strategy "supernet": choose a kind, train the network that holds it, score thousands, train the best few on.

What it finds out is kept in the run, so that a killed search goes on: the kind, the state of the supernet after each
epoch, and every score. The candidates that are trained on are trials like any other.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import NothingFeasible
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.quantities import show_seconds
from searchkit.core.run_files import SUPERNET as FILE
from searchkit.core.run_files import SupernetFile
from searchkit.core.serialization import JSON, derive_seed, freeze, thaw
from searchkit.core.space import Limits, Space
from searchkit.core.space_file import source_of
from searchkit.core.state import snapshot
from searchkit.core.threads import torch_threads
from searchkit.core.training import FitPlan, TrainState
from searchkit.search.candidates import Candidate
from searchkit.search.choices import at, like
from searchkit.search.cost_model import CostModel
from searchkit.search.jobs import Job, run_job
from searchkit.search.named_samplers import sampler_of
from searchkit.search.prior import primed
from searchkit.search.sampler import Ask, SearchView
from searchkit.search.settings import SearchSettings, SearchStopped
from searchkit.search.starts import FACT, built
from searchkit.search.supernet.kind import Kind, default_training, grown, other_kinds
from searchkit.search.time_planning import training_seconds

if TYPE_CHECKING:
    from torch import nn

    from searchkit.search.supernet.scoring import Judge, Scored

SCORES = "supernet.jsonl"
"""A line a scored candidate."""

KINDS = 6
"""Kinds that are compared by a short training of a middle-sized candidate of each, before one is chosen."""

TRAINING_PART, SCORING_PART = 0.4, 0.1
"""Of the time, for the supernet and for the scores; the rest is for the networks that are trained on."""

MOST_SCORED = 2000

LEAST_EPOCHS = 6
"""Of a supernet's training; its largest network is as large as the time allows so many for."""

LONGEST = 2
"""Times the epochs of a trial, at most."""

ROOM = 1.5
"""Times the limits, that the largest network may have: those within the limits are then not all at its edge."""

TRAINED_FIRST = 6
"""Of the best scored, before every other trial is proposed by the search's own sampler."""

LR_PART = 0.5
"""Of the family's own learning rate, for weights that are good already."""


@dataclass
class Supernet:
    """Where trials start (`Starts`), and which come next (`Sampler`), once `prepare` has trained and scored.

    Attributes:
        space: The family.
        ctx: Gives the run, the task, the limits and the deadline.
        settings: The search's.
        view: What samplers may know.
        own_work: Seconds of an example beside its loss, see `TimePlan`.
        rung_epochs: Of the trials; the first is the length of the training that compares kinds.
        name: Of the sampler.
    """

    space: Space
    ctx: Context
    settings: SearchSettings
    view: SearchView
    own_work: float
    rung_epochs: Sequence[int]
    name: str = "supernet"
    _kind: Kind | None = field(default=None, init=False)
    _judge: Judge | None = field(default=None, init=False)
    _ranked: list[Scored] = field(default_factory=list, init=False)

    # ── what a search asks of it ────────────────────────────────────────────────────────────────────────────────────

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """The best scored candidate that was not seen; later, every other time, what the search's own sampler says."""
        if ask.number >= TRAINED_FIRST and ask.number % 2 and ask.attempt < 2:
            return self._others(trials, ask, view)
        lower = default_training(view)
        if isinstance(lower.get("train.lr"), float):
            lower["train.lr"] *= LR_PART
        for row in self._ranked:
            candidate = view.draw(like({**row.params, **lower}, at(0.5)), "best by the supernet")
            if candidate.key not in ask.known:
                return candidate
        return self._others(trials, ask, view)

    def _others(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """What the search's own sampler says."""
        return primed(sampler_of(self.settings.sampler), self.ctx.run, self.space.name).propose(trials, ask, view)

    def facts(self, candidate: Candidate, trials: Sequence[FrozenTrial]) -> dict[str, JSON]:
        """See `Starts.facts`: the supernet, for what is inside it."""
        kind = self._known_kind()
        return {FACT: {"parent": "supernet", "share": 1.0}} if kind and kind.found(candidate) is not None else {}

    def weights(self, facts: Mapping[str, JSON]) -> bytes:
        """See `Starts.weights`."""
        from safetensors.torch import save

        if FACT not in facts:
            return b""
        kind = self._known_kind()
        assert kind is not None, "a trial that started from the supernet has one in its run"
        arch: Any = thaw(self.space.arch, facts["arch"])
        candidate = replace(kind.largest, arch=arch)
        return save(snapshot(self.judged(kind).network(candidate).cpu().state_dict()))

    # ── before the first trial ──────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Choose the kind, train the supernet, score candidates: what of it is not in the run yet."""
        left, started = self.ctx.deadline.left(), time.monotonic()
        with torch_threads(1 if self.settings.executor == "inline" else self.settings.workers):
            with timing.part("supernet"):
                kind = self.kind()
                self.train(kind, self.ctx.deadline.left() if math.isinf(left) else TRAINING_PART * left)
            trained = time.monotonic()
            with timing.part("scoring"):
                self._score(kind, math.inf if math.isinf(left) else SCORING_PART * left)
        told = self._about().get("told", {})
        if "scored" not in told:
            seconds = {"seconds": round(trained - started, 1), "scoring_seconds": round(time.monotonic() - trained, 1)}
            params = sum(p.numel() for p in kind.net.parameters())
            state = self.ctx.run.load_state(self._key)
            epochs = 0 if state is None else state.epoch
            self._note(told={"epochs": epochs, "scored": len(self._ranked), "params": params, **seconds})
            self.ctx.echo(
                f"a supernet of {params:,} parameters was trained for {show_seconds(seconds['seconds'])}; with its "
                f"weights {len(self._ranked):,} candidates were scored in {show_seconds(seconds['scoring_seconds'])}"
            )

    def conclude(self, trials: Sequence[FrozenTrial]) -> None:
        """Note how the scores agree with what the trials came to: Spearman's rank correlation."""
        scores = {row.key: row.losses[0] for row in self._ranked}
        kind = self._known_kind()
        told = self._about().get("told")
        if kind is None or told is None:
            return
        by_arch = {arch_key(self.view, row.params): row.losses[0] for row in self._ranked}
        pairs = []
        for trial in trials:
            if trial.user_attrs.get("status") == "trained" and trial.values and FACT in trial.user_attrs:
                score = scores.get(trial.user_attrs["key"], by_arch.get(str(trial.user_attrs["arch"])))
                if score is not None:
                    pairs.append((score, self.ctx.task.goal.loss(trial.values[0])))
        if len(pairs) >= 3:
            self._note(told={**told, "trained_on": len(pairs), "rank_correlation": round(spearman(pairs), 3)})

    def kind(self) -> Kind:
        """The kind that the run has, or one chosen now.

        Of several, that one whose middle-sized candidate is best after the first rung, as large as limits and time
        allow.
        """
        if (known := self._known_kind()) is not None:
            return known
        left, rng = self.ctx.deadline.left(), random.Random(derive_seed(self.view.seed, "kinds"))
        candidates = other_kinds(self.view, rng, KINDS)
        if not candidates:
            raise NothingFeasible(
                f"No kind of '{self.space.name}' was found of which a candidate is within the limits; raise them, or "
                "search by the strategy 'trials'."
            )
        found = []
        for number, candidate in enumerate(candidates):
            if number > 0 and not math.isinf(left) and left - self.ctx.deadline.left() > SCORING_PART * left:
                break
            found.append((self._short_loss(candidate), number))
        start = candidates[min(found)[1]]
        seconds = math.inf if math.isinf(left) else TRAINING_PART * left
        kind = grown(self.view, self.ctx, start, self._fits(start, seconds))
        epochs = self._epochs(kind, seconds)
        self._note(params=kind.params, epochs=epochs)
        self._kind = kind
        return kind

    def _short_loss(self, candidate: Candidate) -> float:
        plain = candidate.plain
        epochs = self.rung_epochs[0]
        short = {**plain["training"], "epochs": epochs}
        job = Job(0, 0, epochs, source_of(self.space), plain["arch"], short, derive_seed(self.view.seed, "kind"))
        job = replace(job, device=self.ctx.device, precision=self.ctx.precision, channels_last=self.ctx.channels_last)
        metrics = run_job(job, self.ctx.task, self.space).metrics
        loss = math.inf if metrics is None else self.ctx.task.goal.loss(metrics[self.ctx.task.goal.metric])
        return loss if math.isfinite(loss) else math.inf

    def _fits(self, start: Candidate, seconds: float) -> Any:
        """Whether a supernet may be as large as a candidate: for limits and for its training."""
        roomy = {k: None if v is None else type(v)(ROOM * v) for k, v in freeze(self.ctx.limits).items()}
        costs = CostModel(
            self.space, replace(self.ctx, limits=thaw(Limits, roomy)), cost=None, ship_int8=self.settings.ship_int8
        )
        macs = self.ctx.macs(costs.build(start).eval())
        most = math.inf
        if not math.isinf(seconds):
            from searchkit.search.supernet.training import STEP_COST

            epoch = training_seconds(self.space, self.ctx, start, self.own_work) / start.training.epochs
            most = macs * seconds / (STEP_COST * LEAST_EPOCHS * epoch)

        def fits(candidate: Candidate) -> bool:
            weighed = costs.weigh(candidate)
            return weighed is not None and weighed[1] and self.ctx.macs(costs.build(candidate).eval()) <= most

        return fits

    def _epochs(self, kind: Kind, seconds: float) -> int:
        most = LONGEST * self.settings.budget.epochs
        if math.isinf(seconds):
            return most
        from searchkit.search.supernet.training import STEP_COST

        whole = training_seconds(self.space, self.ctx, kind.largest, self.own_work) / kind.largest.training.epochs
        return max(1, min(most, int(seconds / (STEP_COST * whole))))

    def train(self, kind: Kind, seconds: float) -> None:
        """Train to the last epoch, or as long as the time is; the state is kept after each epoch."""
        from searchkit.search.supernet.training import sandwich
        from searchkit.train import Diverged

        ctx, about = self.ctx, self._about()
        state = ctx.run.load_state(self._key) or TrainState()
        training = replace(kind.largest.training, epochs=about["epochs"], pretrain_epochs=0, patience=0)
        ends = time.monotonic() + seconds
        net = built(self.space, ctx, kind.largest.arch, derive_seed(self.view.seed, "supernet"))
        plan = FitPlan(
            training,
            derive_seed(self.view.seed, "supernet"),
            0,
            ctx.device,
            ctx.precision,
            ctx.channels_last,
            loss=sandwich(kind, ctx.task, seed=derive_seed(self.view.seed, "pool")),
        )
        if state.epoch == 0:
            params = sum(p.numel() for p in net.parameters())
            ctx.echo(f"training a supernet of {params:,} parameters for up to {training.epochs} epochs")
        while state.epoch < training.epochs and state.numbers.get("stopped_by") is None:
            left = ends - time.monotonic()
            plan = replace(plan, until=state.epoch + 1, seconds=max(0.0, left))
            try:
                state = ctx.task.fit(net, plan, state)
            except Diverged as error:
                raise SearchStopped(
                    f"The training of the supernet failed: {error}. Search by the strategy 'trials', or with another "
                    "seed."
                ) from error
            ctx.run.save_state(self._key, state)

    def _score(self, kind: Kind, seconds: float) -> None:
        from searchkit.search.supernet.scoring import Scored, hunt, ranked

        judge = self.judged(kind)
        known = [row for row in self.ctx.run.lines(SCORES) if row["space"] == self.space.name]
        rows = [Scored(row["params"], row["key"], tuple(row["losses"])) for row in known]
        cost = self.settings.cost

        def score(candidate: Candidate) -> Scored | None:
            weighed = self.view.weigh(candidate)
            if weighed is None or not weighed[1]:
                return None
            costs: tuple[float, ...] = ()
            if cost is not None:  # what a file costs is not known without export: parameters stand for it
                costs = (float(self.ctx.macs(kind.built(candidate).eval())) if cost == "macs" else weighed[0],)
            params = {n: v for n, v in candidate.params.items() if not n.startswith("train.")}
            return Scored(params, candidate.key, (judge.loss(candidate), *costs))

        if "scored" not in self._about().get("told", {}):
            ends = time.monotonic() + seconds
            for row in hunt(kind, rows, score, n=MOST_SCORED, seed=self.view.seed):
                raise_if_interrupted()
                line = {"space": self.space.name, "params": row.params, "key": row.key, "losses": list(row.losses)}
                self.ctx.run.append_line(SCORES, line)
                if time.monotonic() > ends:
                    break
        self._ranked = ranked([row for row in rows if math.isfinite(row.losses[0])])

    # ── what the run keeps ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _key(self) -> str:
        return f"{self.space.name}-supernet"

    def _about(self) -> dict[str, JSON]:
        return dict((self.ctx.run.read_json(FILE, SupernetFile) or {}).get(self.space.name, {}))

    def _note(self, **entries: JSON) -> None:
        everything = self.ctx.run.read_json(FILE, SupernetFile) or {}
        self.ctx.run.write_json(FILE, {**everything, self.space.name: {**self._about(), **entries}})

    def _known_kind(self) -> Kind | None:
        about = self._about()
        if self._kind is None and "params" in about:
            self._kind = Kind(self.view, self.ctx, about["params"])
        return self._kind

    def judged(self, kind: Kind) -> Judge:
        """Scores with the trained supernet's weights."""
        if self._judge is None:
            from searchkit.search.supernet.scoring import Judge

            net = self._trained(kind)
            self._judge = Judge(kind, net, self.ctx.task, kind.largest.training, device=self.ctx.device)
        return self._judge

    def _trained(self, kind: Kind) -> nn.Module:
        """The supernet as its training left it: with the averaged weights, if those are kept."""
        from searchkit.core.state import with_prefix

        state = self.ctx.run.load_state(self._key)
        assert state is not None, "the supernet is trained before it is asked"
        net = built(self.space, self.ctx, kind.largest.arch, 0)
        net.load_state_dict(with_prefix(state.tensors, "ema.") or with_prefix(state.tensors, "weights."))
        return net.to(self.ctx.device).eval()


def arch_key(view: SearchView, params: Mapping[str, Any]) -> str:
    """The architecture of a scored candidate, as the study has that of a trial, in text."""
    candidate = view.draw(like({**params, **default_training(view)}, at(0.5)), "supernet")
    return str(freeze(candidate.arch))


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation, with the mean rank of equals; 0 if all of one side are equal."""
    columns = [_ranks([pair[side] for pair in pairs]) for side in (0, 1)]
    means = [sum(column) / len(column) for column in columns]
    first, second = ([x - mean for x in column] for column, mean in zip(columns, means, strict=True))
    norm = math.sqrt(sum(x * x for x in first) * sum(y * y for y in second))
    return sum(x * y for x, y in zip(first, second, strict=True)) / norm if norm else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]
