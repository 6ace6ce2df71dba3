"""What starting from trained weights was worth: the pair of one network trained from them and from scratch."""

from __future__ import annotations

from collections.abc import Sequence

from searchkit.core.artifact import Artifact
from searchkit.core.goal import Goal
from searchkit.core.serialization import thaw
from searchkit.core.start_files import TransferNotes
from searchkit.report.records import Curve, Transfer, TransferRow
from searchkit.run import Run

FROM_WEIGHTS, FROM_SCRATCH = "from the weights", "from scratch, the control"


def transfer_of(run: Run, trials: Sequence[Artifact], goal: Goal) -> Transfer | None:
    """The pairs of a search; None if its networks start from random weights.

    Args:
        run: Has the learning curves.
        trials: Of the search.
        goal: Its metric is compared.
    """
    started = {trial.id: trial for trial in trials if "transfer" in trial.notes}
    if not started:
        return None
    facts: dict[str, TransferNotes] = {
        id: thaw(TransferNotes, trial.notes["transfer"], file=run.named(f"artifacts/{id}/artifact.json", "notes"))
        for id, trial in started.items()
    }
    rows: list[TransferRow] = []
    curves: list[Curve] = []
    for control in (trial for id, trial in started.items() if facts[id]["start"]):
        same = (control.space, control.arch, control.training)
        twin = next(
            (t for id, t in started.items() if not facts[id]["start"] and (t.space, t.arch, t.training) == same), None
        )
        if twin is None:
            continue
        logs = [run.log(twin), run.log(control)]
        epoch = min(len(log) for log in logs)  # one may have been stopped at an earlier rung
        for name, trial, log in zip((FROM_WEIGHTS, FROM_SCRATCH), (twin, control), logs, strict=True):
            rows.append(
                TransferRow(
                    space=trial.space,
                    number=int(trial.made_by["number"]),
                    start=name,
                    taken=facts[trial.id]["taken"] / max(1, facts[trial.id]["of"]),
                    first=log[0].get("val") if log else None,
                    epoch=epoch,
                    value=log[epoch - 1].get("val") if epoch else None,
                    epochs=len(log),
                    last=trial.metrics[goal.metric],
                )
            )
            points = tuple({k: row[k] for k in ("epoch", "loss", "val") if row.get(k) is not None} for row in log)
            curves.append(Curve(name, True, points, goal.metric))
    n_taking = sum(fact["taken"] > 0 for fact in facts.values())
    source = next(iter(facts.values()))["source"]
    return Transfer(source, n_taking, len(started), tuple(rows), tuple(curves))
