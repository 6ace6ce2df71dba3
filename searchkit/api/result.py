"""The result of a run: a view of its folder, which reads what is there when it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.api.predict import Shipped
from searchkit.api.trials import TrialInfo, trials_of
from searchkit.core.errors import BadInput, NotInstalled
from searchkit.data import memory_files

if TYPE_CHECKING:
    import numpy as np

    from searchkit.core.data_spec import Arrays
    from searchkit.core.task import Task
    from searchkit.evaluation.records import Evidence
    from searchkit.run import Run


class Result:
    """What a run came to: its trials, the front, the shipped network, the report.

    Each attribute is read from the run's folder when it is asked for, so a result of a run that goes on is up to date.

    Args:
        run: the run's folder, opened. `search`, `resume`, `compress` and `load_run` return results.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shipped: Shipped | None = None

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._run.name

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self._run.path

    @property
    def verdict(self) -> str:
        """One sentence: what is shipped, how good it is on test, and what it cost against the fp32 winner."""
        from searchkit.report.write import verdict

        return verdict(self._run, self._evidence)

    @property
    def trials(self) -> list[TrialInfo]:
        """All trials, in order of their number; those that were refused before training too."""
        return trials_of(self._run)

    @property
    def front(self) -> list[TrialInfo]:
        """The trials that no other beats in both the metric and the cost; the best metric first."""
        from searchkit.search.results import winners

        numbers = [(artifact.space, int(artifact.made_by["number"])) for artifact in winners(self._run)]
        by_number = {(trial.space, trial.number): trial for trial in self.trials}
        return [by_number[number] for number in numbers]

    @property
    def best(self) -> TrialInfo:
        """The trial with the best metric on the validation split, the cheaper of equals.

        Raises:
            BadInput: no trial was trained yet.
        """
        front = self.front
        if not front:
            raise BadInput(f"The run '{self.name}' has no trained trial yet; go on with it by searchkit.resume.")
        return front[0]

    @property
    def families(self) -> list[dict[str, Any]]:
        """One row for each family that shared the search, the best first; empty if there is one alone.

        Each row has the family's name, its trials by what became of them, its best trial with the metric on validation
        and the costs, its trials on the front, and its seconds and share of the training.
        """
        from searchkit.report.data import gather

        return [vars(row) for row in gather(self._run, self._evidence).families]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """One row for each exported file on the way to the shipped one; empty before compression.

        Each row has the file's name, whether it is shipped, the metric on test with its 95 % interval (low, high), and
        size_bytes, params, macs and latency_ms (batch 1, one thread).
        """
        from searchkit.report.data import stage_rows

        evidence = self._evidence
        if evidence is None:
            return []
        return [
            {
                "name": row.name,
                "shipped": row.is_chosen,
                evidence.goal.metric: row.model.metric.value,
                "low": row.model.metric.low,
                "high": row.model.metric.high,
                "size_bytes": row.model.size_bytes,
                "params": row.model.params,
                "macs": row.model.macs,
                "latency_ms": row.model.latency.p50_ms,
            }
            for row in stage_rows(evidence)
        ]

    @property
    def bundle(self) -> Path:
        """The folder that runs without PyTorch: `model.onnx`, `run.py`, `verify.py` and a manifest.

        Raises:
            BadInput: nothing was bundled yet, because the recipe was "none" or the run was interrupted.
        """
        if not self._run.bundle.is_dir():
            raise BadInput(f"The run '{self.name}' has no bundle; make one by searchkit.compress('{self.path}').")
        return self._run.bundle

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the report: `report.html`, `report.md` and `report.json`.

        Args:
            folder: where to; None is the folder `report` of the run.

        Returns:
            The path of `report.html`: one file that opens offline.
        """
        from searchkit import lifecycle
        from searchkit.report.write import write

        where = lifecycle.report_folder(self._run, None) if folder is None else Path(folder)
        return write(self._run, self._evidence, where)["html"]

    def to_pandas(self) -> Any:
        """The trials as a `pandas.DataFrame`, one row each; parameters are columns params_…, costs are cost_….

        Raises:
            NotInstalled: there is no pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise NotInstalled(
                "A DataFrame needs pandas, which is not installed; run pip install pandas, or use Result.trials."
            ) from error
        return pandas.DataFrame([trial.flat() for trial in self.trials])

    def predict(self, data: Any) -> np.ndarray:
        """Predict with the shipped file, in ONNX Runtime on the CPU.

        Args:
            data: what `search` takes, without targets: inputs (n, …), a table with the training columns (others are
                left out), texts, or a dictionary of arrays by the names of the bundle's inputs.

        Returns:
            For classes (n,), the class of each example as the target had it; for several labels (n, n_labels) bools;
            for anomalies (n,) bools; else the answers of the network, such as (n, n_targets) values.

        Raises:
            BadInput: nothing was bundled yet, or the data are unlike those of the training.
        """
        return self._file().predict(data)

    def predict_raw(self, data: Any) -> Arrays:
        """The answers of the shipped file as they are, by name: such as probabilities (n, n_classes).

        Args:
            data: see `predict`.

        Raises:
            BadInput: see `predict`.
        """
        return self._file().answers(data)

    def _file(self) -> Shipped:
        """The shipped file, opened once for each version of it."""
        stamp = (self.bundle / "manifest.json").stat().st_mtime_ns
        if self._shipped is None or self._shipped.stamp != stamp:
            self._shipped = Shipped(self.bundle, lambda: task_of(self._run), stamp)
        return self._shipped

    @property
    def _evidence(self) -> Evidence | None:
        """What was measured on test; None before compression."""
        from searchkit.evaluation.records import stored

        return stored(self._run)

    def __repr__(self) -> str:
        return f"<Result of the run '{self.name}' in {self.path}>"

    def _repr_html_(self) -> str:
        """The verdict, the table of stages and the front, for a notebook."""
        from searchkit.api.display import summary

        return summary(self._run, self._evidence)


def task_of(run: Run) -> Task:
    """The task of a run, from its data as they are now. Raises BadInput if they cannot be read."""
    from searchkit import lifecycle
    from searchkit.tasks import registry

    return registry.load(memory_files.relocated(lifecycle.config_of(run).data.plain(), run.path))
