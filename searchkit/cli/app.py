"""The command line of searchkit, and its composition root: only this file sees both the engine and `spaces/`.

Results go to stdout (one JSON object with --json), progress and errors to stderr. Exit status: 0 done; 2 bad use or bad
input; 3 nothing feasible; 4 a proof failed; 130 interrupted. Nothing here imports torch before there is work for it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchkit import __version__
from searchkit.cli.console import Console
from searchkit.core import catalogue
from searchkit.core.data_spec import brief
from searchkit.core.errors import BadInput, SearchkitError
from searchkit.core.serialization import JSON
from searchkit.core.space import Space
from searchkit.data.problems import selectable

if TYPE_CHECKING:
    from searchkit.core.artifact import Artifact
    from searchkit.core.space import Budget
    from searchkit.core.task import Task
    from searchkit.run import Run
    from searchkit.stages.recipes import CompressionConfig

SCHEMA_VERSION = 1

PROBLEMS = selectable()

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
        raise typer.BadParameter(f"'{brief(text)}' is not a whole number; write one, such as 12.") from error


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{brief(text)}' is not a number; write one, such as 0.5.") from error


def examples(*lines: str) -> str:
    """The three examples under a verb's help; \\b keeps click from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# ── spaces: a folder listing is the registry ─────────────────────────────────────────────────────────────────────────


def space_path(name: str) -> Path:
    return catalogue.find(catalogue.FAMILIES, name)


def load_space(name: str) -> Space:
    from searchkit.core.space_file import load_space as load

    return load(space_path(name))


# ── what several verbs take ──────────────────────────────────────────────────────────────────────────────────────────

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name in the runs folder, or its path.")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder of runs.")]
Reports = Annotated[Path, typer.Option("--reports", help="The folder that reports are written to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, with a schema version.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
MaxDrop = Annotated[float, typer.Option(parser=number, help="Of a metric: what pruning and int8 may each cost.")]
MaxRise = Annotated[float, typer.Option(parser=number, help="The same for an error, as a share of it.")]
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
    from searchkit import workflow
    from searchkit.run import Run

    run = Run.open(Path(name) if os.sep in name else runs / name)
    workflow.question_of(run)  # every field of run.json is one that a verb can use
    return run


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples(
        "searchkit search --space cnn",
        "searchkit search --space mlp --data adult.csv --target income --max-size 50KB",
        "searchkit search --space cnn --data fashion-mnist/ --time-budget 45m --workers 2 --seed 1",
    )
)
def search(
    flow: typer.Context,
    space: Annotated[str, typer.Option(help="A family's name (see `spaces`), or the path of your own.")] = "",
    task: Annotated[str | None, typer.Option(help="An embedded task (see `tasks`).")] = None,
    data: Annotated[Path | None, typer.Option(help="CSV, Parquet, .npz, .ts, text; idx, image or wav folder.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict; a series' channels; of parallel texts, the language.")
    ] = None,
    test_data: Annotated[Path | None, typer.Option(help="The test split: a second file, or numbers of graphs.")] = None,
    test_files: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="In a wav folder, the files of test, such as '*_[0-4].wav'.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="tabular, image, series, tokens, voxels or graph.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(PROBLEMS[:-1])} or {PROBLEMS[-1]}."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(metavar="KIND:LEVEL", help="To take off again, such as gaussian:0.5 or mask:0.3."),
    ] = None,
    anomaly: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Learn the other classes and find this one, or these: 'a,b'."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text, such as latin-1.  [default: utf-8]")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Of text: words, pairs or characters.  [default: characters; for lines, words]")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            help="Of text: tokens at most.  [default: 8000 words; 2000 byte pairs, 4000 to translate]",
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(parser=whole_number, help="Of a text or series to continue.  [default: 64 or 96]")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(parser=whole_number, help="Of a series: steps to forecast.  [default: 24]")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a series: shares or rows of train, val and test, such as 0.6,0.2,0.2.")
    ] = None,
    time_column: Annotated[str | None, typer.Option(help="Of a series.  [default: found]")] = None,
    features: Annotated[
        str | None, typer.Option(help="Of sounds: raw samples, or logmel, computed in the exported graph.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(parser=whole_number, help="Cut or pad every series of wav and .ts files to so many.")
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
        int | None,
        typer.Option(parser=whole_number, help="Processes, one thread each.  [default: cores; with a GPU, 2 at most]"),
    ] = None,
    seed: Annotated[int, typer.Option(parser=whole_number, help="Of the search and every training in it.")] = 0,
    split_seed: Annotated[int, typer.Option(parser=whole_number, help="Of the splits into train, val and test.")] = 0,
    sampler: Annotated[str, typer.Option(help="tpe, nsga2, random or grid.")] = "tpe",
    minimize: Annotated[
        str | None,
        typer.Option(
            help="A cost beside the metric: latency, size, macs, params; or none.  [default: params; none under limits]"
        ),
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="Of the shipped file, such as 100KB.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="At batch 1 on one thread here, such as 2ms.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Such as 50k.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="Multiply-accumulates of one example, such as 5M.")] = None,
    recipe: Annotated[
        str, typer.Option(help="compact, int8, prune, distil, export, or none to stop after the search.")
    ] = "compact",
    prune_to: Annotated[
        float | None,
        typer.Option(
            parser=number, help="The share of --prune-by to keep, or an absolute target.  [default: see docs]"
        ),
    ] = None,
    prune_by: Annotated[str, typer.Option(help="params, size, macs or latency.")] = "params",
    importance: Annotated[str, typer.Option(help="l1, l2, taylor, bn or random.")] = "taylor",
    max_drop: MaxDrop = 0.005,
    max_rise: MaxRise = 0.02,
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
        extra = [flag for flag in given if was_given(flow, flag) and flag not in WITH_RESUME]
        if extra:
            flag = extra[0].replace("_", "-")
            raise BadInput(
                f"--resume {resume} takes its question from the run; leave out --{flag}. "
                "With it go --workers, a higher --trials or --time-budget, --runs, --reports, --json and --quiet."
            )
        answer(
            open_run(resume, runs), None, Raise(trials, time_budget, workers), reports, Console(quiet=quiet), as_json
        )
        return
    if not space:
        known = ", ".join(catalogue.files(catalogue.FAMILIES))
        raise BadInput(f"--space is missing; the spaces are {known}, or a path to your own file.")
    from searchkit import workflow
    from searchkit.cli import flags
    from searchkit.tasks import registry

    if storage is not None:
        os.environ["SEARCHKIT_STORAGE"] = storage  # with its password, which is kept nowhere else
    path = space_path(space)
    if task is None and data is None:
        task = str(catalogue.glance(path).get("task", "")) or None
    question = flags.question(given, task, space=path.stem if path.parent == catalogue.FAMILIES else str(path))

    loaded = registry.load(question.source)
    family = load_space(str(path) if space not in catalogue.files(catalogue.FAMILIES) else space)
    refusal = family.accepts(loaded.spec)
    if refusal is not None:
        raise BadInput(f"The space '{family.name}' is not for the task '{loaded.name}': {refusal}.")
    question = replace(question, budget=flags.budget(given, family.budget), fixed_epochs=epochs is not None)
    workflow.require_startable(question, reports)
    console = Console(quiet=quiet)
    console.summary(loaded.name, loaded.summary())
    run = workflow.start(
        question, loaded, root=runs, name=name or free_name(runs, family.name, loaded.name), command=sys.argv
    )
    answer(run, loaded, None, reports, console, as_json)


WITH_RESUME = ("resume", "trials", "time_budget", "workers", "runs", "reports", "as_json", "quiet")


def was_given(flow: typer.Context, flag: str) -> bool:
    """On the command line, as its default or not."""
    source = flow.get_parameter_source(flag)
    return source is not None and source.name == "COMMANDLINE"


@dataclass(frozen=True)
class Raise:
    """What --resume may change: how much may be spent, which is stored with the run, and how many work at once."""

    trials: int | None
    time_budget: str | None
    workers: int | None

    def budget(self, before: Budget) -> Budget:
        from searchkit.cli import flags

        return flags.raised(vars_of(self), before)

    @property
    def words(self) -> list[str]:
        trials = [] if self.trials is None else ["--trials", str(self.trials)]
        return trials + ([] if self.time_budget is None else ["--time-budget", self.time_budget])


def free_name(runs: Path, space: str, task: str) -> str:
    stem = f"{space}-{task}"
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def answer(run: Run, task: Task | None, more: Raise | None, reports: Path, console: Console, as_json: bool) -> None:
    """Do what the run's question asks and is not done yet; then say what came of it. A run that is resumed (more) loads
    its own task.
    """
    from searchkit import workflow
    from searchkit.cli import flags
    from searchkit.core.errors import NothingFeasible
    from searchkit.tasks import registry

    watch_for_crashes(run)
    if task is None:
        task = registry.load(run.config["question"]["source"])
    question = workflow.reopen(run, task)
    started = time.monotonic()
    with run.locked(), workflow.resumable(run):
        if more is not None:
            budget = more.budget(question.budget)
            if budget != question.budget:
                question = workflow.extend(run, budget, more.words)
            workers = flags.workers(more.workers, question.executor)
            question = replace(question, workers=question.workers if more.workers is None else workers)
        clock = workflow.Clock(run)

        def say(text: str) -> None:
            clock.tick()
            console.say(text)

        def progress(status: Any) -> None:
            clock.tick()
            console.progress(status)

        try:
            ctx = workflow.context(run, question, task, load_space, say, spent=clock.before)
            say(f"run {run.name}" + (" resumed" if more else "") + f" in {run.path}")
            winner = workflow.search(ctx, question, progress, spent=clock.before)
            console.close()
            if question.recipe == "none":
                report_search(run, winner, task, as_json)
                return
            verdict, written = workflow.prove(workflow.compress(winner, ctx, question), ctx, reports)
        except (BadInput, NothingFeasible):
            if more is None:
                workflow.discard_unbegun(run)
            raise
        finally:
            console.close()
            if run.path.is_dir():
                clock.tick(at_once=True)
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
        "searchkit compress cnn-digits-1 --recipe distil --student 4 --temperature 4",
    )
)
def compress(
    run_name: RunName,
    trial: TrialNumber = None,
    recipe: Annotated[str, typer.Option(help="compact, int8, prune, distil or export.")] = "compact",
    prune_to: Annotated[
        float | None, typer.Option(parser=number, help="The share of --prune-by to keep, or an absolute target.")
    ] = None,
    prune_by: Annotated[str, typer.Option(help="params, size, macs or latency.")] = "params",
    importance: Annotated[str, typer.Option(help="l1, l2, taylor, bn or random.")] = "taylor",
    max_drop: MaxDrop = 0.005,
    max_rise: MaxRise = 0.02,
    student: Annotated[
        int | None,
        typer.Option(parser=whole_number, help="This trial's network learns from the winner, instead of its own."),
    ] = None,
    temperature: Annotated[float, typer.Option(parser=number, help="Of the teacher's softened answers.")] = 2.0,
    teacher_weight: Annotated[float, typer.Option(parser=number, help="Of the teacher in the loss, 0 to 1.")] = 0.5,
    ensemble: Annotated[int, typer.Option(parser=whole_number, help="Networks in the teacher, the best first.")] = 3,
    runs: Runs = Path("runs"),
    reports: Reports = Path("reports"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put the winner, or any trial, through a recipe.

    What is done already is not done again.
    """
    given = locals()
    from searchkit.cli import flags
    from searchkit.stages import recipes

    if recipe not in recipes.NAMES or recipe == "none":
        allowed = ", ".join(name for name in recipes.NAMES if name != "none")
        raise BadInput(f"--recipe '{recipe}' is not known here; it is one of {allowed}.")
    wish = flags.wish(given)
    started = time.monotonic()
    run = open_run(run_name, runs)
    verdict, written = put_through(run, trial, recipe, wish, reports, Console(quiet=quiet))
    finish(run, verdict, written, as_json, time.monotonic() - started, "compress")


def put_through(
    run: Run, trial: int | None, recipe: str, wish: CompressionConfig, reports: Path, console: Console
) -> tuple[str, dict[str, Path]]:
    """The winner, or this trial, through a recipe: the verdict and the report's files."""
    from searchkit import workflow
    from searchkit.search.results import winners
    from searchkit.search.storage import without_password
    from searchkit.tasks import registry

    watch_for_crashes(run)
    workflow.require_writable(reports)
    task = registry.load(run.config["question"]["source"])
    asked = workflow.reopen(run, task)
    if wish.student is not None:
        run.trial(wish.student)
    question = replace(asked, recipe=recipe, wish=wish, budget=replace(asked.budget, seconds=math.inf))
    with run.locked(), workflow.resumable(run):
        ctx = workflow.context(run, question, task, load_space, console.say)
        winner = run.trial(trial) if trial is not None else first(winners(run), run)
        made = workflow.compress(winner, ctx, question)
        command = [without_password(word) for word in sys.argv]
        return workflow.prove(made, ctx, reports, question=question, command=command)


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
    from searchkit.evaluation.records import stored
    from searchkit.report import write as reporting

    run = open_run(run_name, runs)
    found = stored(run)
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

    Of what the run shipped, or of any trial in fp32, to a folder of its own.
    """
    from searchkit.core.files import copy_folder
    from searchkit.stages.recipes import CompressionConfig

    run = open_run(run_name, runs)
    if to is not None and to.exists():
        raise BadInput(f"--to '{to}' exists; give a new folder, so that nothing of yours is written over.")
    if trial is not None:
        where = to or run.path / f"bundle-trial-{trial}"
        if not where.exists():
            export_trial(run, trial, where, Console(quiet=quiet))
    else:
        where = to or run.bundle
        if not run.bundle.is_dir():
            put_through(run, None, "export", CompressionConfig(), reports, Console(quiet=quiet))
        if to is not None:
            copy_folder(run.bundle, to)
    plain = {"run": run.name, "bundle": str(where), **({} if trial is None else {"trial": trial})}
    emit(as_json, "export", plain, f"bundle  {where}\nverify  python {where}/verify.py")


def export_trial(run: Run, trial: int, where: Path, console: Console) -> None:
    from searchkit import workflow
    from searchkit.tasks import registry

    found = run.trial(trial)
    watch_for_crashes(run)
    task = registry.load(run.config["question"]["source"])
    question = workflow.reopen(run, task)
    metric = task.goal.metric
    value = found.metrics[metric]  # before there is a bundle
    workflow.bundle_trial(workflow.context(run, question, task, load_space, console.say), found, where)
    console.say(f"trial {trial} has val {metric} {value:.4g}, which chose it; it was not scored on test")


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
    from searchkit.onnx import measure

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
    from searchkit.core.serialization import freeze

    return dict(freeze(row))


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples("searchkit spaces", "searchkit spaces --json", "searchkit search --space cnn   # one of them")
)
def spaces(as_json: AsJson = False) -> None:
    """List the families, with their default task and budget."""
    rows = [catalogue.glance(path) for path in catalogue.files(catalogue.FAMILIES).values()]
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
    from searchkit.tasks.registry import names, schemes

    found, more = names(), schemes()
    rows = found | {f"{prefix}:NAME": about for prefix, about in more.items()}
    width = max(map(len, rows))
    text = "\n".join(f"{name:<{width}}  {about}" for name, about in rows.items())
    emit(as_json, "tasks", {"tasks": found, "schemes": more}, text)


@app.command(
    epilog=examples("searchkit status", "searchkit status cnn-digits-1", "searchkit status cnn-digits-1 --json")
)
def status(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="All runs without it.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs and how far each is; for one RUN its goal, trials, stages, time, and what to do next."""
    from searchkit.report import standing

    if run_name is not None:
        run = open_run(run_name, runs)
        found = standing.full_standing(run)
        called = run_name if runs == Path("runs") else str(run.path)
        emit(as_json, "status", {"runs": [found]}, standing.describe(found, name=called))
        return
    rows = [standing.standing_or_damage(path.parent) for path in sorted(runs.glob("*/run.json"))]
    text = [
        f"{r['run']:<32} {r['state']:<10} "
        + (r.get("reason") or f"{r['trials']} of {r['of']} trials  {' '.join(r['stages'])}")
        for r in rows
    ]
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
    from searchkit.core.errors import GateFailed
    from searchkit.tasks import registry as taskbook
    from searchkit.testing.suite import run_checks

    family = load_space(str(file) if os.sep in str(file) else f".{os.sep}{file}")
    results = run_checks(family, taskbook.load({"task": task or family.task}), path=file)
    failed = [r for r in results if r.outcome == "failed"]
    text = "\n".join(f"{r.outcome:<8} {r.check:<28} {r.detail}" for r in results)
    plain: dict[str, JSON] = {"space": family.name, "results": [vars_of(r) for r in results]}
    if failed:
        error = f"{len(failed)} of {len(results)} checks failed for '{family.name}', the first: {failed[0].check}."
        plain |= {"error": error, "exit_status": GateFailed.exit_status}
    emit(as_json, "check", plain, text)
    if failed:
        print(f"searchkit: {error}", file=sys.stderr)
        raise typer.Exit(GateFailed.exit_status)


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


def watch_for_crashes(run: Run | None = None) -> None:
    """A bug of ours, or a full disk: the traceback goes to a log, in the run where there is one; one sentence to the
    screen.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = time.strftime("%Y-%m-%dT%H:%M:%S") + "\n" + "".join(traceback.format_exception(kind, error, trace))
        sentence = f"searchkit stopped on {kind.__name__}: {brief(error)}."
        try:
            if run is not None and run.path.is_dir():
                log = run.path / "error.log"
                hint = f" What is done is kept: searchkit search --resume {run.name} goes on."
            else:
                handle, name = tempfile.mkstemp(prefix="searchkit-", suffix=".log")
                os.close(handle)
                log, hint = Path(name), ""
            with open(log, "a", encoding="utf-8") as file:
                file.write(told)
            sentence += f" The traceback is in {log}.{hint}"
        except OSError:  # the disk may be what is full
            sentence += "\n" + told
        print(sentence, file=sys.stderr)

    sys.excepthook = hook


def main() -> None:
    """Ends the process with the exit status of what happened."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads starve the other worker (measured: 28 → 128 ms a step)
    watch_for_crashes()
    try:
        app()
    except SearchkitError as error:
        if "--json" in sys.argv:
            print(json.dumps({"schema_version": SCHEMA_VERSION, "error": str(error), "exit_status": error.exit_status}))
        print(f"searchkit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        refused = BadInput(f"The name '{error.filename}' is too long for a file; give a shorter one.")
        print(f"searchkit: {refused}", file=sys.stderr)
        sys.exit(BadInput.exit_status)
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C where no run is at work
            print("searchkit: interrupted before there was a result.", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
