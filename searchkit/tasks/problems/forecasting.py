"""What comes next in a series: the `horizon` steps after a window of `window`, of some of its channels or of all.

A series is one stream of rows in the order of time, cut into train, val and test that follow one another. An example is
a window with the steps after it, at every step that has one. What is to be forecast lies whole within its split;
the window before it may reach back over the border, as what was seen by then may be known (the convention of Zhou et
al. 2021, arXiv:2012.07436). Channels are standardized by the rows of train, and errors are measured on that scale, so
that channels of different units weigh alike; the answers are in the series' own units.

Windows that share steps err alike. So examples hang together in blocks of consecutive windows at least a horizon long,
which are resampled whole (Carlstein 1986, The use of subseries values): the intervals take what lies in different
blocks for independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON, freeze
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.data.splits import TEST_SHARE, VAL_SHARE
from searchkit.data.summary import summarize
from searchkit.data.windows import Cut
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.modalities.windows import ScaleChannels, Windows, cut_of
from searchkit.tasks.predictions import FORECAST
from searchkit.tasks.problems.baselines import RIDGE_ROWS, SEASON_WINDOWS, Ridge, SeasonalNaive, best_season, ridge
from searchkit.tasks.problems.regression import Rescale
from searchkit.tasks.protocols import Modality, ProblemSpec

WINDOW, HORIZON = 96, 24
"""Default number of steps."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """The problem of the next steps of some channels.

    Attributes:
        mean: (K,) of the channels that are forecast.
        std: (K,) of the same.
        horizon: Steps to come.
    """

    mean: np.ndarray
    std: np.ndarray
    horizon: int
    n_classes = 0

    @property
    def goal(self) -> Goal:
        """The mean squared error, each channel in its deviations."""
        return Goal("mse", "minimize", unit=tuple(float(s) for s in self.std))

    @property
    def output(self) -> TensorSpec:
        """(K, horizon), on the network's scale; the answers have the same shape."""
        return TensorSpec("forecast", (len(self.mean), self.horizon))

    answers = output

    def postprocessor(self) -> nn.Module:
        """Make the module back to the series' own units."""
        return Rescale(self.std[:, None], self.mean[:, None])

    def encode(self, target: np.ndarray) -> np.ndarray:
        """What is to be forecast is cut from the scaled stream, so there is nothing to encode."""
        raise AssertionError("what is to be forecast is cut from the scaled stream")

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Values stay as they are; smoothing has no meaning here."""
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error on the network's scale."""
        return F.mse_loss(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean squared difference of the two on the network's scale; temperature has no meaning here."""
        return F.mse_loss(student.float(), teacher.float())

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """The score of a window is its squared error over channels and steps, each channel in its deviations."""
        decisions, targets = self._scaled(answers), self._scaled(truth)
        errors = decisions.astype(np.float64) - targets
        scores = (errors**2).mean(axis=(1, 2))
        metrics = {"mse": self.goal.value(scores), "mae": float(np.abs(errors).mean())}
        return Evaluation(metrics, scores, decisions, targets)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((values - self.mean[:, None]) / self.std[:, None], dtype=np.float32)


def forecast(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Forecast:
    """Make the problem for these data."""
    assert isinstance(preprocessor, ScaleChannels)
    cut = cut_of(data)
    # Taken from the preprocessor, in float32 as it has them: errors are measured on the scale that the network sees.
    mean, std = (
        values.view(-1)[: len(cut.targets)].double().numpy() for values in (preprocessor.mean, preprocessor.std)
    )
    return Forecast(mean, std, cut.horizon)


class ForecastTask(ArrayTask):
    """An ArrayTask that keeps the stream and cuts what is asked for: neighboring windows share all steps but one."""

    def __init__(self, data: Dataset) -> None:
        self.cut = cut_of(data)
        self._streams: dict[str, Tensor] = {}
        super().__init__(data)

    @property
    def stream(self) -> np.ndarray:
        """(T, C), raw."""
        return self.data.inputs["series"]

    def raw(self, split: Split) -> Arrays:
        """The windows of a split, as views: they overlap."""
        return {"series": self.cut.windows(self.stream)[self._slice(split)]}

    def truth(self, split: Split) -> np.ndarray:
        """(n, K, horizon), raw; views."""
        return self.cut.futures(self.stream[:, list(self.cut.targets)])[self._slice(split)]

    def _slice(self, split: Split) -> slice:
        # The rows of a split are consecutive: a slice gives views, where an index would copy every window.
        rows = self.data.rows[split]
        return slice(int(rows[0]), int(rows[-1]) + 1)

    def _model_ports(self) -> tuple[TensorSpec, ...]:
        return (replace(self.inputs[0], dtype="float32"),)

    def _examples(self, split: Split, rows: Tensor, device: str) -> tuple[tuple[Tensor, ...], Tensor | None]:
        if device not in self._streams:
            # (1, C, T), contiguous in time, so that a window of a channel is one run of memory.
            stream = torch.from_numpy(np.ascontiguousarray(self.stream.T))[None].to(device)
            self._streams[device] = self._scale((stream,))[0][0]
        series_CT, cut = self._streams[device], self.cut
        # Positions, (B, window) and (B, horizon), pick (C, B, …), which is then transposed. The forecast channels come
        # first in the scaled stream (ScaleChannels).
        at = (rows + int(self.data.rows[split][0]))[:, None]
        seen = at + torch.arange(cut.window, device=device)
        to_come = at + torch.arange(cut.window, cut.window + cut.horizon, device=device)
        inputs = series_CT[:, seen].transpose(0, 1).contiguous()
        return (inputs,), series_CT[: len(cut.targets), to_come].transpose(0, 1).contiguous()

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on all windows of a split."""
        return self._kind.score(predict(self.raw(split))[self.answers[0].name], self.truth(split))

    def groups(self, split: Split) -> np.ndarray | None:
        """See `Grouped`. Blocks are at least n^(1/3) windows long (Hall, Horowitz & Jing 1995)."""
        n = self.n_examples(split)
        block = max(self.cut.horizon, math.ceil(n ** (1 / 3)))
        return np.asarray(np.arange(n) // block)

    def baselines(self) -> dict[str, Predict]:
        """See `HasBaselines`: the last step, the last season, and ridge regression from window to horizon.

        The season is left out if none does better on val than the last step alone.
        """
        return dict(self._rivals)

    @cached_property
    def _rivals(self) -> dict[str, Predict]:
        cut, unit = self.cut, np.array(self.goal.unit)

        def some(split: Split, most: int) -> tuple[np.ndarray, np.ndarray]:
            """Windows, evenly spread, and what follows them."""
            rows = np.unique(np.linspace(0, self.n_examples(split) - 1, most).astype(int))
            return self.raw(split)["series"][rows], self.truth(split)[rows]

        def error(forecast: Ridge) -> float:
            return self.evaluate(forecast, "val").metrics["mse"]

        season = best_season(cut, unit, *some("val", SEASON_WINDOWS))
        seasons: dict[str, Predict] = {"the last step again": SeasonalNaive(cut, 1)}
        if season > 1:
            seasons[f"the last {season} steps again"] = SeasonalNaive(cut, season)
        n = max(1, min(self.n_examples("train"), RIDGE_ROWS // len(cut.targets)))
        return seasons | {"ridge regression": ridge(cut, unit, *some("train", n), error)}

    @cached_property
    def _without_network(self) -> str:
        scored = {name: self.evaluate(rival, "val").metrics["mse"] for name, rival in self._rivals.items()}
        return "on val: " + ", ".join(f"{name} {mse:.3g}" for name, mse in scored.items())

    def summary(self) -> dict[str, JSON]:
        """Count what was found, with times, borders and what needs no network."""
        cut, channels = self.cut, self.data.columns
        # a row by its number among the different rows: windows are the same where these are
        ids = np.unique(self.stream, axis=0, return_inverse=True)[1].reshape(-1)
        examples = replace(self.data, inputs={"series": cut.windows(ids)})
        rows = self.data.rows
        borders = zip(rows, (0, *cut.ends[:2]), cut.ends, strict=True)
        shares = ", ".join(f"{split} {first:,} to {end - 1:,} ({len(rows[split]):,})" for split, first, end in borders)
        told = {
            "rows": f"{len(self.stream):,} in the order of time: {shares}; in brackets the windows",
            "times": cut.times,
            "window": f"{cut.window:,} steps, of which {cut.horizon:,} more are answered",
            "predicts": "the steps to come of " + ", ".join(channels[c].name for c in cut.targets[:12])
            + (f" and {len(cut.targets) - 12} more" if len(cut.targets) > 12 else ""),
            "metric": "mse, each channel in deviations of its train rows",
            "no network": self._without_network,
        }  # fmt: skip
        found = summarize(self.data, self.inputs, examples=examples)
        return found | {
            "goal": self.goal.metric,
            "fingerprint": self.fingerprint,
            "told": {what: words for what, words in told.items() if words},
        }

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """See `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "forecasting"}, arrays


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> ForecastTask:
    """Rebuild a packed task."""
    return ForecastTask(Dataset.unpack(config, arrays))


# ── From what was found to a task ────────────────────────────────────────────────────────────────────────────────────


def make_forecast(found: RawDataset, source: Source) -> ForecastTask:
    """Make the task of a series that was found.

    Raises:
        BadInput: it is no series, too short for its window and horizon, or constant in train.
    """
    if found.kind != "forecasting":
        raise BadInput(
            f"{found.where} is no series to be continued, which forecasting needs: a table with a row a step; leave "
            "out --problem forecasting."
        )
    if source.modality not in (None, "series") or source.features:
        raise unsuited(found.where, source.features or source.modality)
    if source.split_seed:
        raise BadInput(
            f"The splits of {found.where} follow one another in time, and --split-seed {source.split_seed} shuffles; "
            "leave it out, or move the borders by --split."
        )
    inputs = Windows().arrange(found)
    stream = inputs["series"]
    window, horizon = source.window or WINDOW, source.horizon or HORIZON
    names = tuple(column.name for column in found.columns)
    targets = tuple(names.index(name) for name in found.targets)
    cut = Cut(window, horizon, targets, _ends(len(stream), source, found), found.about)
    _require_fitting(cut, len(stream), found)
    train = stream[: cut.ends[0]]
    for c in targets:
        if (train[:, c] == train[0, c]).all():
            raise BadInput(
                f"The channel '{names[c]}' of {found.where} is {train[0, c]:g} in every row of train; there is nothing "
                "to learn, so leave it out of --target, or move the borders by --split."
            )
    return ForecastTask(
        Dataset(
            name=found.name,
            modality="windows of a series",
            kind="forecasting",
            inputs=inputs,
            target=None,
            rows=cut.rows(),
            where=found.where,
            targets=found.targets,
            columns=found.columns,
            windows=freeze(cut),
        )
    )


PROBLEMS = {
    "forecasting": ProblemSpec(
        forecast,
        ProblemInfo(
            description="the next steps of a series",
            predicts="the steps to come",
            reads="series",
            fields=("horizon", "split", "time_column"),
            suits="forecasting a series",
        ),
        FORECAST,
        whole=make_forecast,
    ),
}


def unsuited(where: str, asked: str | None) -> BadInput:
    """The error of another problem that was asked of a series to forecast."""
    return BadInput(f"{where} is a series to forecast, which '{asked}' is not for; leave it out.")


def _ends(n: int, source: Source, found: RawDataset) -> tuple[int, int, int]:
    """The rows at which train, val and test end, by --split: shares that sum to 1 at most, or numbers of rows."""
    if source.split is None:
        test = round(n * TEST_SHARE)
        val = round((n - test) * VAL_SHARE)
        return n - test - val, n - test, n
    try:
        sizes = [float(part) for part in source.split.split(",")]
    except ValueError:
        sizes = []
    shares = len(sizes) == 3 and all(0 < size < 1 for size in sizes)
    whole = len(sizes) == 3 and all(size >= 1 and size.is_integer() for size in sizes)
    if not shares and not whole:
        raise BadInput(
            f"--split '{source.split}' is neither three shares nor three numbers of rows, of train, val and test; "
            "write 0.6,0.2,0.2 or 8640,2880,2880."
        )
    if shares:
        if sum(sizes) > 1 + 1e-9:
            raise BadInput(f"--split '{source.split}' sums to {sum(sizes):g}; shares of the rows sum to 1 at most.")
        a, b, c = (round(n * end) for end in np.cumsum(sizes))
        return a, b, min(c, n)
    if sum(sizes) > n:
        raise BadInput(f"--split '{source.split}' asks for {sum(sizes):,.15g} rows, and {found.where} has {n:,}.")
    a, b, c = (int(end) for end in np.cumsum(sizes))
    return a, b, c


def _require_fitting(cut: Cut, n: int, found: RawDataset) -> None:
    if cut.horizon >= n or cut.window >= n:
        what, steps = ("horizon", cut.horizon) if cut.horizon >= n else ("window", cut.window)
        raise BadInput(
            f"A {what} of {steps:,} steps does not fit into {found.where}, which has {n:,}; give a shorter one."
        )
    train, val, test = cut.ends
    if train < cut.window + cut.horizon + 1:
        raise BadInput(
            f"The train split of {found.where} has {train:,} steps, and a window of {cut.window:,} with a horizon of "
            f"{cut.horizon:,} needs {cut.window + cut.horizon + 1:,}; give a shorter one, or more to train by --split."
        )
    for split, steps in (("val", val - train), ("test", test - val)):
        if steps < cut.horizon:
            raise BadInput(
                f"The {split} split of {found.where} has {steps:,} steps, fewer than the horizon of {cut.horizon:,}; "
                "give a shorter --horizon, or more rows to it by --split."
            )
