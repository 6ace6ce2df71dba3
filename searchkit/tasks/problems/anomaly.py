"""What is unlike the rest: a network learns to rebuild normal examples, and is judged by how badly it rebuilds others.

Some classes are held out: none of their examples is trained on, all of them are in val and test. The score of an
example is its squared error, the mean over its values on the scale on which the network sees them: no column of a table
outweighs another by its unit. The exported graph gives the score beside the reconstruction, so that what is measured
here is what a user gets; the threshold above which it is an alarm is that of the very file, from the normal examples of
val (`calibrate`). The search and the stages are led by the area under the ROC curve on val: its anomalies are chosen
by, not learnt from. Not to be confused with a classifier of the held-out class, which has been trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

import numpy as np
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.data.targets import read_classes
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.bundle_files import script
from searchkit.tasks.metrics import roc_components
from searchkit.tasks.predictions import CLASSES
from searchkit.tasks.prepare import make_task
from searchkit.tasks.problems.reconstruction import Rebuild, rebuild
from searchkit.tasks.protocols import Modality, ProblemSpec

EMBEDDED = {
    "digits-anomaly": "tell the 8x8 digits that are a 9 from the others, without a 9 to learn from (scikit-learn)",
}

HELD_OUT = "9"  # of digits-anomaly; any other: --anomaly

QUANTILE = 0.95
"""Of the scores of normal val examples: the threshold. One normal example in twenty is an alarm."""

SCORE = TensorSpec("score", ())


class RestoredAndScored(nn.Module):
    """Takes a reconstruction on the network's scale to one on the raw scale, and its mean squared error, (B,).

    The error is over the values of an example, on the network's scale.
    """

    def __init__(self, restore: nn.Module) -> None:
        super().__init__()
        self.restore = restore

    def compare(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `ComparesOutput`."""
        return self.restore(output), (output - x).square().flatten(1).mean(1)


def anomaly_score(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Rebuild:
    """Make a problem trained as a reconstruction, with the goal that anomalies have higher scores than the normal."""
    made = rebuild(data, modality, preprocessor, spec_input)
    return replace(made, goal=Goal("roc_auc", "maximize", most=1.0), tail=RestoredAndScored(made.restore))


class AnomalyTask(ArrayTask):
    """An ArrayTask whose targets, 0 for normal and 1 for an anomaly, are for the judgement alone."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self.answers = (*self.answers, SCORE)

    def _encoded(self, split: Split) -> None:
        return None

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on a split.

        Decisions are 1 if the score is above the threshold of this very predictor. Of the metrics, recall is over the
        anomalies, false_alarm_rate over the normal examples, and mse that of the normal examples' reconstructions on
        the raw scale.
        """
        raw, truth = self.raw(split), self.data.target_of(split)
        answered = predict(raw)
        scores = answered[SCORE.name].astype(np.float64)
        # what is no number is wrong, whatever it should have been
        scores = np.where(np.isfinite(scores), scores, np.where(truth == 1, -np.inf, np.inf))
        # On val the threshold follows from these scores; for another split val has to be answered first.
        threshold = _threshold(scores[truth == 0]) if split == "val" else self.calibrate(predict)["threshold"]
        decisions = (scores > threshold).astype(np.int64)
        components = roc_components(truth == 1, scores)
        rebuilt = answered[self.answers[0].name][truth == 0]
        error = self._kind.score(rebuilt, raw[self.data.main][truth == 0])
        metrics = {
            self.goal.metric: self.goal.value(components),
            "recall": _mean(decisions[truth == 1]),
            "false_alarm_rate": _mean(decisions[truth == 0]),
            "mse": error.metrics["mse"],
        }
        return Evaluation(metrics, components, decisions, truth)

    def calibrate(self, predict: Predict) -> dict[str, JSON]:
        """See `Calibrated`: the threshold of this very predictor, from the normal examples of val."""
        truth = self.data.target_of("val")
        scores = predict(self.raw("val"))[SCORE.name].astype(np.float64)[truth == 0]
        return {
            "output": SCORE.name,
            "threshold": _threshold(scores),
            "above": self.labels[1],
            "below": self.labels[0],
            "quantile": QUANTILE,
            "of": f"{len(scores):,} normal examples of val",
        }

    def bundle_files(self) -> dict[str, str]:
        """See `HasBundleFiles`: a run.py that says which rows are anomalies."""
        return {"run.py": script("run_anomaly.py")}

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """See `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "anomaly"}, arrays


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> AnomalyTask:
    """Rebuild a packed task."""
    return AnomalyTask(Dataset.unpack(config, arrays))


def _threshold(scores: np.ndarray) -> float:
    """The least score that the quantile of them does not exceed; what is no number counts as the highest.

    An order statistic, so that the same scores in another order or a larger split give no value in between.
    """
    ranked = np.sort(np.where(np.isfinite(scores), scores, np.finfo(np.float64).max))
    return float(np.quantile(ranked, QUANTILE, method="higher"))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


# ── Holding out ──────────────────────────────────────────────────────────────────────────────────────────────────────


def held_out(wanted: str | None, labels: tuple[str, ...], where: str) -> list[int]:
    """Find the classes to hold out.

    Args:
        wanted: One label, or several with commas between.
        labels: All class names, in the order of their indices.
        where: What an error calls the data.

    Returns:
        Ascending indices.

    Raises:
        BadInput: a label is no class, all are named, or none.
    """
    known = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    if wanted is None:
        raise BadInput(
            f"--problem anomaly needs the class, or classes, to hold out of {where}: --anomaly LABEL, of {known}."
        )
    # The whole text first: a label may have a comma in it.
    names = [wanted] if wanted in labels else [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in labels:
            near = get_close_matches(name, labels, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"--anomaly '{name}' is no class of {where}; its classes are {known}.{hint}")
    if len(set(names)) == len(labels):
        raise BadInput(
            f"--anomaly '{wanted}' holds out every class of {where} ({known}), and leaves none that is normal; name "
            "fewer."
        )
    return sorted({labels.index(name) for name in names})


def separate(data: Dataset, found: RawDataset, source: Source) -> Dataset:
    """Make classes into normal examples and anomalies, without anomalies in train.

    The anomalies of train go to val if the source says which rows are test; else all are shared out between val and
    test as the normal examples are.

    Args:
        data: Its target are classes.
        found: What the data were made of.
        source: Says which classes to hold out.

    Returns:
        The data with a target of 0 for normal and 1 for an anomaly, and names for the two.

    Raises:
        BadInput: a class is not known, or a split would lack anomalies or normal examples.
    """
    classes, labels, rows = data.target, data.labels, data.rows
    assert classes is not None
    chosen = held_out(source.anomaly, labels, found.where)
    target = np.isin(classes, chosen).astype(np.int64)
    normal = {split: part[target[part] == 0] for split, part in rows.items()}
    # Sorted, so that the draw below depends on the seed and not on which split an anomaly was in.
    unlike_all = np.sort(np.concatenate([part[target[part] == 1] for part in rows.values()]))
    if "test" in found.given:
        test = rows["test"][target[rows["test"]] == 1]
    else:
        share = len(normal["test"]) / max(1, len(normal["test"]) + len(normal["val"]))
        # One for test and one for val at least, if there are two.
        n_test = min(max(1, round(share * len(unlike_all))), len(unlike_all) - 1)
        test = np.random.default_rng(derive_seed("anomaly", source.split_seed)).permutation(unlike_all)[:n_test]
    anomalies = {"val": np.setdiff1d(unlike_all, test), "test": test}
    named = " or ".join(f"'{labels[k]}'" for k in chosen)
    for split, part in anomalies.items():
        if not len(part):
            raise BadInput(
                f"{found.where} has {len(unlike_all)} of class {named} and none for {split}; give at least one for val "
                "and one for test."
            )
    for split, least in (("train", 2), ("val", 1), ("test", 1)):
        if len(normal[split]) < least:
            raise BadInput(
                f"Without class {named} the {split} split of {found.where} has {len(normal[split])} examples; at least "
                f"{least} must be normal."
            )
    joined = {split: np.sort(np.concatenate([normal[split], part])) for split, part in anomalies.items()}
    names = ("normal", f"anomaly ({', '.join(labels[k] for k in chosen)})")
    return replace(data, target=target, labels=names, rows={"train": normal["train"], **joined})


PROBLEMS = {
    "anomaly": ProblemSpec(
        anomaly_score,
        ProblemInfo(
            description="how unlike the normal examples an example is",
            predicts="how unlike the normal examples it is",
            fields=("anomaly",),
            asked_by=("anomaly",),
        ),
        CLASSES,
        read=read_classes,
        arrange=separate,
        task=AnomalyTask,
    ),
}


def load(source: Source) -> Task:
    """Load the packaged task: the digits with one held out, or with what the user holds out."""
    from searchkit.tasks.modalities.image import digits

    if source.kind in (None, "anomaly"):
        source = replace(source, problem="anomaly", anomaly=source.anomaly or HELD_OUT)
    return make_task(digits("digits-anomaly"), source)
