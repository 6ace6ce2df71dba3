"""The command line of searchkit, and its composition root: only this file sees both the engine and `spaces/`.

Results go to stdout (one JSON object with --json), progress and errors to stderr. Exit status: 0 done; 2 bad use or bad
input; 3 nothing feasible; 4 a proof failed; 130 interrupted. Nothing here imports torch before there is work for it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from searchkit import __version__, catalogue
from searchkit.console import Console
from searchkit.types import JSON, BadInput, SearchkitError, Space

if TYPE_CHECKING:
    from searchkit.run import Run
    from searchkit.types import Artifact, Task

SCHEMA_VERSION = 1
SPACES = Path(__file__).parent / "spaces"

app = typer.Typer(
    name="searchkit",
    help="Find a small, accurate network for your data and device, prove it, ship it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def whole_number(text: str) -> int:
    """A flag's value; click's own sentence leaves out what was given."""
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a whole number; write one, such as 12.") from error


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a number; write one, such as 0.5.") from error


def examples(*lines: str) -> str:
    """The three examples under a verb's help; \\b keeps click from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# ── spaces: a folder listing is the registry ─────────────────────────────────────────────────────────────────────────


def space_path(name: str) -> Path:
    return catalogue.find(SPACES, name)


def load_space(name: str) -> Space:
    from searchkit.spacefile import load_space as load

    return load(space_path(name))


# ── what several verbs take ──────────────────────────────────────────────────────────────────────────────────────────

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name in the runs folder, or its path.")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder of runs.")]
Reports = Annotated[Path, typer.Option("--reports", help="The folder that reports are written to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, with a schema version.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
TrialNumber = Annotated[
    int | None, typer.Option("--trial", parser=whole_number, help="This trial instead of the winner.")
]


def emit(as_json: bool, verb: str, plain: Mapping[str, JSON], text: str) -> None:
    """The result, on stdout."""
    if as_json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, "command": verb, **plain}, ensure_ascii=False))
    else:
        print(text)


def open_run(name: str, runs: Path) -> Run:
    from searchkit.run import Run

    path = Path(name) if os.sep in name else runs / name
    return Run.open(path)


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples(
        "searchkit search --space cnn",
        "searchkit search --space mlp --data adult.csv --target income --max-size 50KB",
        "searchkit search --space cnn --data fashion-mnist/ --time-budget 45m --workers 2 --seed 1",
    )
)
def search(
    space: Annotated[str, typer.Option(help="A family's name (see `spaces`), or the path of your own.")] = "",
    task: Annotated[str | None, typer.Option(help="An embedded task (see `tasks`).")] = None,
    data: Annotated[Path | None, typer.Option(help="CSV, Parquet, .npz, idx folder, or image folder.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict, for tables.")] = None,
    test_data: Annotated[Path | None, typer.Option(help="A second table: the test split.")] = None,
    modality: Annotated[str | None, typer.Option(help="tabular, image, series or tokens.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="classification, multilabel, regression or reconstruction."),
    ] = None,
    trials: Annotated[int | None, typer.Option(parser=whole_number, help="How many networks to train.")] = None,
    epochs: Annotated[
        int | None, typer.Option(parser=whole_number, help="Epochs of a trial that reaches the last rung.")
    ] = None,
    rungs: Annotated[
        int | None, typer.Option(parser=whole_number, help="Of successive halving; 1 trains all to the end.")
    ] = None,
    time_budget: Annotated[str | None, typer.Option(help="For the whole line, such as 30m.")] = None,
    workers: Annotated[
        int | None, typer.Option(parser=whole_number, help="Processes, one thread each.  [default: cores]")
    ] = None,
    seed: Annotated[int, typer.Option(parser=whole_number, help="Of the search and every training in it.")] = 0,
    sampler: Annotated[str, typer.Option(help="tpe, nsga2, random or grid.")] = "tpe",
    minimize: Annotated[
        str, typer.Option(help="A cost beside the metric: latency, size, macs, params; or none.")
    ] = "params",
    max_size: Annotated[str | None, typer.Option(help="Of the shipped file, such as 100KB.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="At batch 1 on one thread here, such as 2ms.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Such as 50k.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="Multiply-accumulates of one example, such as 5M.")] = None,
    recipe: Annotated[
        str, typer.Option(help="compact, int8, prune, export, or none to stop after the search.")
    ] = "compact",
    prune_to: Annotated[
        float | None,
        typer.Option(
            parser=number, help="The share of --prune-by to keep, or an absolute target.  [default: see docs]"
        ),
    ] = None,
    prune_by: Annotated[str, typer.Option(help="params, size, macs or latency.")] = "params",
    importance: Annotated[str, typer.Option(help="l1, l2, taylor, bn or random.")] = "taylor",
    max_drop: Annotated[float, typer.Option(parser=number, help="Of the metric, that int8 may cost.")] = 0.005,
    executor: Annotated[str, typer.Option(help="inline, processes or ray.")] = "processes",
    address: Annotated[str | None, typer.Option(help="A Ray cluster's address.")] = None,
    storage: Annotated[str | None, typer.Option(help="A study shared by URL, such as postgresql://…")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    name: Annotated[str | None, typer.Option(help="Of the run.  [default: space-task-number]")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run.")] = None,
    runs: Runs = Path("runs"),
    reports: Reports = Path("reports"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search, compress, prove and bundle a network for your data.

    Everything has a default: `searchkit search --space cnn` is a whole run.
    """
    given = locals()
    if resume is not None:
        extra = sorted(flag for flag in ("space", "task", "data", "name", "target") if given[flag])
        if extra:
            raise BadInput(f"--resume {resume} takes its question from the run; leave out --{extra[0]}.")
        answer(open_run(resume, runs), None, reports=reports, as_json=as_json, quiet=quiet, resumed=True)
        return
    if not space:
        raise BadInput(
            f"--space is missing; the spaces are {', '.join(catalogue.files(SPACES))}, or a path to your own file."
        )
    from searchkit import flags, line, tasks

    path = space_path(space)
    if task is None and data is None:
        task = str(catalogue.glance(path).get("task", "")) or None
    question = flags.question(given, task, space=path.stem if path.parent == SPACES else str(path))

    loaded = tasks.load(question.source)
    family = load_space(str(path) if space not in catalogue.files(SPACES) else space)
    refusal = family.accepts(loaded.spec)
    if refusal is not None:
        raise BadInput(f"The space '{family.name}' is not for the task '{loaded.name}': {refusal}.")
    question = replace(question, budget=flags.budget(given, family.budget), fixed_epochs=epochs is not None)
    console = Console(quiet=quiet)
    console.summary(loaded.name, loaded.summary())
    run = line.start(
        question, loaded, root=runs, name=name or free_name(runs, family.name, loaded.name), command=sys.argv
    )
    answer(run, loaded, reports=reports, as_json=as_json, quiet=quiet, resumed=False)


def free_name(runs: Path, space: str, task: str) -> str:
    stem = f"{space}-{task}"
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def answer(run: Run, task: Task | None, *, reports: Path, as_json: bool, quiet: bool, resumed: bool) -> None:
    """Do what the run's question asks and is not done yet; then say what came of it."""
    from searchkit import line, tasks

    watch_for_crashes(run.path)
    console = Console(quiet=quiet)
    started = time.monotonic()
    if task is None:
        task = tasks.load(run.config["question"]["source"])
    question = line.reopen(run, task)
    with run.locked():
        ctx = line.context(run, question, task, load_space, console.say)
        console.say(f"run {run.name}" + (" resumed" if resumed else "") + f" in {run.path}")
        try:
            winner = line.search(ctx, question, console.progress)
        finally:
            console.close()
        if question.recipe == "none":
            report_search(run, winner, task, as_json)
            return
        artifacts = line.compress(winner, ctx, question)
        verdict, written = line.prove(artifacts, ctx, reports)
    finish(run, verdict, written, as_json, time.monotonic() - started, "search")


def report_search(run: Run, winner: Artifact, task: Task, as_json: bool) -> None:
    metric = task.goal.metric
    number = winner.made_by["number"]
    text = (
        f"The search is done: trial {number} has val {metric} {winner.metrics[metric]:.4g} "
        f"with {winner.metrics['params']:,.0f} parameters. Next: searchkit compress {run.name}"
    )
    emit(as_json, "search", {"run": run.name, "path": str(run.path), "trial": number, "metrics": winner.metrics}, text)


def finish(run: Run, verdict: str, written: Mapping[str, Path], as_json: bool, seconds: float, verb: str) -> None:
    plain = {
        "run": run.name,
        "path": str(run.path),
        "verdict": verdict,
        "bundle": str(run.bundle),
        "report": {kind: str(path) for kind, path in written.items()},
        "seconds": round(seconds, 1),
    }
    text = f"{verdict}\n\nreport  {written['html']}\nbundle  {run.bundle}"
    emit(as_json, verb, plain, text)


# ── the shorter ways ─────────────────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples(
        "searchkit compress cnn-digits-1",
        "searchkit compress cnn-digits-1 --trial 7 --prune-to 0.25",
        "searchkit compress cnn-digits-1 --recipe int8 --json",
    )
)
def compress(
    run_name: RunName,
    trial: TrialNumber = None,
    recipe: Annotated[str, typer.Option(help="compact, int8, prune or export.")] = "compact",
    prune_to: Annotated[
        float | None, typer.Option(parser=number, help="The share of parameters to keep, or an absolute target.")
    ] = None,
    importance: Annotated[str, typer.Option(help="l1, l2, taylor, bn or random.")] = "taylor",
    max_drop: Annotated[float, typer.Option(parser=number, help="Of the metric, that int8 may cost.")] = 0.005,
    runs: Runs = Path("runs"),
    reports: Reports = Path("reports"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put the winner, or any trial, through a recipe.

    What is done already is not done again.
    """
    from searchkit import line, recipes, tasks
    from searchkit.search import winners

    if recipe not in recipes.NAMES or recipe == "none":
        allowed = ", ".join(name for name in recipes.NAMES if name != "none")
        raise BadInput(f"--recipe '{recipe}' is not known here; it is one of {allowed}.")
    started = time.monotonic()
    run = open_run(run_name, runs)
    watch_for_crashes(run.path)
    task = tasks.load(run.config["question"]["source"])
    asked = line.reopen(run, task)
    wish = replace(asked.wish, prune_to=prune_to, importance=importance, max_drop=max_drop)
    question = replace(asked, recipe=recipe, wish=wish, budget=replace(asked.budget, seconds=math.inf))
    with run.locked():
        ctx = line.context(run, question, task, load_space, Console(quiet=quiet).say)
        winner = run.trial(trial) if trial is not None else first(winners(run), run)
        verdict, written = line.prove(line.compress(winner, ctx, question), ctx, reports)
    finish(run, verdict, written, as_json, time.monotonic() - started, "compress")


def first(found: list[Artifact], run: Run) -> Artifact:
    if not found:
        raise BadInput(
            f"The run '{run.name}' has no finished trial; go on with it: searchkit search --resume {run.name}"
        )
    return found[0]


@app.command(
    epilog=examples(
        "searchkit report cnn-digits-1",
        "searchkit report cnn-digits-1 --reports public/",
        "searchkit report runs/cnn-digits-1 --json",
    )
)
def report(
    run_name: RunName, runs: Runs = Path("runs"), reports: Reports = Path("reports"), as_json: AsJson = False
) -> None:
    """Write a run's report again.

    HTML, Markdown and JSON; nothing is trained or measured.
    """
    from searchkit import report as reporting

    run = open_run(run_name, runs)
    found = run.read_json("evidence.json")
    written = reporting.write(run, found, reports / run.name)
    verdict = reporting.verdict(run, found)
    plain = {"run": run.name, "verdict": verdict, "report": {kind: str(path) for kind, path in written.items()}}
    emit(as_json, "report", plain, f"{verdict}\n\nreport  {written['html']}")


@app.command(
    epilog=examples(
        "searchkit export cnn-digits-1 --to build/model",
        "searchkit export cnn-digits-1 --trial 3",
        "searchkit export cnn-digits-1 --json",
    )
)
def export(
    run_name: RunName,
    to: Annotated[Path | None, typer.Option(help="Copy the bundle to this new folder.")] = None,
    trial: TrialNumber = None,
    runs: Runs = Path("runs"),
    reports: Reports = Path("reports"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a bundle that runs without PyTorch.

    Of what the run shipped, or of any trial in fp32.
    """
    from searchkit.run import copy_folder

    run = open_run(run_name, runs)
    if to is not None and to.exists():
        raise BadInput(f"--to '{to}' exists; give a new folder, so that nothing of yours is written over.")
    if trial is not None or not run.bundle.is_dir():
        compress(run_name, trial=trial, recipe="export", runs=runs, reports=reports, as_json=as_json, quiet=quiet)
    if to is not None:
        copy_folder(run.bundle, to)
    if trial is None or to is not None:
        where = to or run.bundle
        emit(
            as_json,
            "export",
            {"run": run.name, "bundle": str(where)},
            f"bundle  {where}\nverify  python {where}/verify.py",
        )


@app.command(
    epilog=examples(
        "searchkit bench a.onnx b.onnx",
        "searchkit bench runs/x/bundle/model_fp32.onnx runs/x/bundle/model.onnx",
        "searchkit bench a.onnx b.onnx --processes 9 --json",
    )
)
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="A.onnx B.onnx", help="The first is what others are compared with.")
    ],
    processes: Annotated[int, typer.Option(parser=whole_number, help="Fresh processes to time in.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Compare the latency of ONNX files.

    Interleaved, at batch 1 on one thread, in fresh processes; ratios are to the first file.
    """
    from searchkit import measure

    if processes < 1:
        raise BadInput(f"--processes {processes} times nothing; it must be at least 1.")
    found = measure.bench(models, processes=processes)
    rows = [f"{'file':<40} {'p50 ms':>9} {'p95 ms':>9}   ratio to the first"]
    for path, row in found.items():
        ratio = f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}] {row.verdict}"
        rows.append(f"{path[-40:]:<40} {row.p50_ms:>9.4f} {row.p95_ms:>9.4f}   {ratio}")
    plain = [{"file": path, **vars_of(row)} for path, row in found.items()]
    emit(as_json, "bench", {"models": plain}, "\n".join(rows))


def vars_of(row: object) -> dict[str, JSON]:
    from searchkit.types import freeze

    return dict(freeze(row))


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples("searchkit spaces", "searchkit spaces --json", "searchkit search --space cnn   # one of them")
)
def spaces(as_json: AsJson = False) -> None:
    """List the families, with their default task and budget."""
    rows = [catalogue.glance(path) for path in catalogue.files(SPACES).values()]
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{row['name']:<{width}}  {row['about']}\n"
        f"{'':<{width}}  default: {row.get('task')}, {row.get('trials')} trials of {row.get('epochs')} epochs at most"
        for row in rows
    ]
    emit(as_json, "spaces", {"spaces": rows}, "\n".join(lines))


@app.command(epilog=examples("searchkit tasks", "searchkit tasks --json", "searchkit search --space mlp --task wine"))
def tasks(as_json: AsJson = False) -> None:
    """List the embedded tasks: no file, no download."""
    from searchkit.tasks import names

    found = names()
    width = max(map(len, found))
    emit(as_json, "tasks", {"tasks": found}, "\n".join(f"{name:<{width}}  {about}" for name, about in found.items()))


@app.command(
    epilog=examples("searchkit status", "searchkit status cnn-digits-1", "searchkit status cnn-digits-1 --json")
)
def status(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="All runs without it.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show what runs there are and how far each is."""
    if run_name is not None:
        found = [open_run(run_name, runs)]
    else:
        found = [open_run(path.parent.name, runs) for path in sorted(runs.glob("*/run.json"))]
    rows = []
    for run in found:
        budget = run.config["question"]["budget"]
        stages = sorted({a.stage for a in run.artifacts().values()} - {"Trial"})
        done = "shipped" if run.bundle.is_dir() else "searched" if stages else "searching"
        rows.append(
            {"run": run.name, "state": done, "trials": len(run.trials()), "of": budget["trials"], "stages": stages}
        )
    text = [f"{r['run']:<32} {r['state']:<10} {r['trials']} of {r['of']} trials  {' '.join(r['stages'])}" for r in rows]
    emit(
        as_json,
        "status",
        {"runs": rows},
        "\n".join(text) or f"No runs in {runs}; start one: searchkit search --space cnn",
    )


@app.command(
    epilog=examples(
        "searchkit check my_family.py", "searchkit check spaces/cnn.py", "searchkit check my_family.py --json"
    )
)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A family's file that ends in SPACE = Space(…).")],
    task: Annotated[str | None, typer.Option(help="Instead of the family's default task.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the conformance suite on a family.

    Everything that the engine relies on, each with its verdict.
    """
    from searchkit import tasks as taskbook
    from searchkit.checks import run_checks
    from searchkit.types import GateFailed

    family = load_space(str(file) if os.sep in str(file) else f".{os.sep}{file}")
    results = run_checks(family, taskbook.load({"task": task or family.task}), path=file)
    failed = [r for r in results if r.outcome == "failed"]
    text = "\n".join(f"{r.outcome:<8} {r.check:<28} {r.detail}" for r in results)
    emit(as_json, "check", {"space": family.name, "results": [vars_of(r) for r in results]}, text)
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(results)} checks failed for '{family.name}', the first: {failed[0].check}."
        )


def show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def searchkit(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


# ── the edge ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def watch_for_crashes(folder: Path) -> None:
    """A bug of ours, or a full disk: the traceback goes to a log in the run, one sentence to the screen."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log = folder / "error.log"
        with open(log, "a", encoding="utf-8") as file:
            file.write(
                time.strftime("%Y-%m-%dT%H:%M:%S") + "\n" + "".join(traceback.format_exception(kind, error, trace))
            )
        print(
            f"searchkit stopped on {kind.__name__}: {error}. The traceback is in {log}; the run can be resumed.",
            file=sys.stderr,
        )

    sys.excepthook = hook


def main() -> None:
    """Ends the process with the exit status of what happened."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads starve the other worker (measured: 28 → 128 ms a step)
    watch_for_crashes(Path(tempfile.gettempdir()))
    try:
        app()
    except SearchkitError as error:
        if "--json" in sys.argv:
            print(json.dumps({"schema_version": SCHEMA_VERSION, "error": str(error), "exit_status": error.exit_status}))
        print(f"searchkit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("searchkit: interrupted; --resume RUN goes on from here.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
