"""Where the trials of a search started, in a sentence or two."""

from __future__ import annotations

from searchkit.core.quantities import show_seconds
from searchkit.core.run_files import SUPERNET, SupernetFile
from searchkit.report.formatting import plural
from searchkit.run import Run


def told_starts(run: Run) -> str:
    """What the report says of supernets, and of trials that started from trained weights; empty if there are none."""
    found = []
    for family, about in (run.read_json(SUPERNET, SupernetFile) or {}).items():
        if (told := about.get("told")) is None:
            continue
        found.append(
            f"A supernet of {family} with {told['params']:,} parameters was trained for "
            f"{plural(told['epochs'], 'epoch')} ({show_seconds(told['seconds'])}); with its weights "
            f"{plural(told['scored'], 'candidate')} were scored in {show_seconds(told['scoring_seconds'])}."
        )
        if "rank_correlation" in told:
            found.append(
                f"The rank correlation (Spearman) of the scores with the validation metric of the {told['trained_on']} "
                f"trials that were trained on is {told['rank_correlation']:.2f}."
            )
    started = [a.notes["first_weights"]["parent"] for a in run.trials() if "first_weights" in a.notes]
    inherited = [parent for parent in started if parent != "supernet"]
    if inherited:
        found.append(f"{plural(len(inherited), 'trial')} of {len(run.trials())} started from a trained network.")
    return " ".join(found)
