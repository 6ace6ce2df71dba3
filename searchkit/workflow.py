"""The whole workflow: from a configuration to a verified bundle, and every shorter way through it.

The configuration is written to the run before any work. What carries it out reads the run and does what is not there
yet, and so is the same code for a new run and a resumed one.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from searchkit.config.compression import CompressionConfig
from searchkit.config.limits import BudgetConfig
from searchkit.config.run import RunConfig
from searchkit.context import Context
from searchkit.core import catalogue, timing
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.files import copy_folder
from searchkit.core.scratch import scratch_folder
from searchkit.core.space import Limits, Space
from searchkit.core.task import Task
from searchkit.core.time_shares import EVIDENCE_SECONDS, TimeShares, share_out
from searchkit.lifecycle import (
    Clock,
    config_of,
    discard_unbegun,
    extend,
    reopen,
    report_folder,
    resumable,
)
from searchkit.machine import pick_device
from searchkit.own import Own, require_given
from searchkit.run import Run
from searchkit.stages import recipes

if TYPE_CHECKING:
    from searchkit.search.settings import Progress, SearchSettings, Status

FINAL_EPOCHS = 10
"""Times the epochs of a trial, that the final training takes at most."""

Spaces = Callable[[str], Space]
Echo = Callable[[str], None]

log = logging.getLogger("searchkit")


class Screen(Protocol):
    """What the user sees while a run works."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def progress(self, status: Status) -> None:
        """Show where the search stands."""

    def close(self) -> None:
        """End the live line, if there is one."""


@dataclass(frozen=True)
class More:
    """What may change if a run is resumed.

    Attributes:
        budget: more trials or more time; None in its fields changes nothing.
        workers: the number of workers from now on; it is not stored.
        words: the words of the command that say so.
    """

    budget: BudgetConfig
    workers: int | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        winner: the best trial.
        verdict: one sentence that says what was shipped; None if the recipe was none.
        report: the files of the report by their format.
    """

    winner: Artifact
    verdict: str | None
    report: dict[str, Path]


def carry_out(
    run: Run,
    task: Task,
    *,
    spaces: Spaces,
    screen: Screen,
    reports: str | None,
    more: More | None = None,
    own: Own | None = None,
) -> Outcome:
    """Do what a run's configuration asks for and is not done yet: search, compress, evaluate, report.

    Args:
        run: a new run, or one to resume.
        task: its loaded data.
        spaces: finds a family by its name.
        screen: hears of the progress.
        reports: see `report_folder`.
        more: what changes in a run that is resumed; None if the run is new. A new run that fails on its configuration
            before anything is trained is removed.
        own: the sampler and the recipe that were given by value; the task has the metric.

    Raises:
        BadInput: the configuration cannot be carried out.
        NothingFeasible: no network meets the limits.
        Interrupted: Ctrl-C was pressed; what is done is kept.
    """
    own = own or Own()
    # Before `reopen`, whose check of the metric would tell the user to call `compress`.
    require_given(run, config_of(run), own, task)
    config = reopen(run, task)
    with run.locked(), resumable(run):
        if more is not None:
            config = _with_more(run, config, more)
        clock = Clock(run)

        def say(text: str) -> None:
            clock.tick()
            screen.say(text)

        def progress(status: Status) -> None:
            clock.tick()
            screen.progress(status)

        try:
            ctx = context(run, config, task, spaces, say, spent=clock.before)
            say(f"run {run.name}" + (" resumed" if more else "") + f" in {run.path}")
            with timing.part("search"):
                winner = search(ctx, config, progress, spent=clock.before, own=own)
            screen.close()
            if config.compression.recipe == "none":
                return Outcome(winner, None, {})
            with timing.part("compression"):
                lineage = compress(winner, ctx, config, own)
            verdict, written = prove(lineage, ctx, report_folder(run, reports))
        except (BadInput, NothingFeasible):
            if more is None:
                discard_unbegun(run)
            raise
        finally:
            screen.close()
            # `discard_unbegun` may have removed it.
            if run.path.is_dir():
                clock.tick(at_once=True)
    return Outcome(winner, verdict, written)


def _with_more(run: Run, config: RunConfig, more: More) -> RunConfig:
    """The configuration of a resumed run; a raised budget is stored."""
    budget = config.budget.raised(more.budget)
    if budget != config.budget:
        config = extend(run, budget, list(more.words))
    if more.workers is not None:
        config = replace(config, search=replace(config.search, workers=more.workers))
    return config


def context(run: Run, config: RunConfig, task: Task, spaces: Spaces, echo: Echo, *, spent: float = 0.0) -> Context:
    """What the search and the stages may use.

    Args:
        run: the run.
        config: its configuration.
        task: its data.
        spaces: finds a family by its name.
        echo: shows a line to the user.
        spent: seconds of the time budget that are gone.
    """
    # by name or by path, as the run stores them; an artifact knows its family by its own name
    searched = [(asked, spaces(asked)) for asked in catalogue.split(str(config.search.space))]

    def family(name: str) -> Space:
        return next((found for asked, found in searched if name in (found.name, asked)), None) or spaces(name)

    seconds = config.budget.budget().seconds
    log.debug("%.0f of %s seconds are spent", spent, seconds)
    return Context(
        run=run,
        task=task,
        spaces=family,
        seed=config.search.seed,
        device=pick_device(config.search.device),
        threads=config.search.workers or 1,
        limits=config.limits.limits(),
        deadline=Deadline.after(max(0.0, seconds - spent)),
        echo=echo,
    )


def settings_of(config: RunConfig, own: Own | None = None) -> SearchSettings:
    """What the search takes of the configuration, and its sampler if that was given by value."""
    from searchkit.search.settings import SearchSettings

    return SearchSettings(
        budget=config.budget.budget(),
        sampler=(own and own.sampler) or config.search.sampler,
        minimize=config.minimized,
        workers=config.search.workers or config.search.workers_per_trial,
        executor=config.search.executor,
        address=config.search.address,
        gpus_per_trial=config.search.gpus_per_trial,
        workers_per_trial=config.search.workers_per_trial,
        storage=config.search.storage,
        ship_int8=recipes.quantizes(config.compression.shown_recipe),
        plans_epochs=not config.budget.fixed_epochs,
        strategy=config.search.strategy,
    )


def search(
    ctx: Context, config: RunConfig, progress: Progress, *, spent: float = 0.0, own: Own | None = None
) -> Artifact:
    """Run the search and the final training of its winner, or finish them.

    Args:
        ctx: what the search may use.
        config: the configuration of the run.
        progress: hears where the search stands.
        spent: seconds of the time budget that were gone when this began: the search's share is of the whole.
        own: the sampler that was given by value, if one was.

    Returns:
        The best trial of the Pareto front in the metric, and the cheaper of equals; under a time budget what its final
        training made of it.

    Raises:
        BadInput: a shared study gave this run no trial of its own.
        NothingFeasible: no network meets the limits.
    """
    from searchkit.search.coordinator import search
    from searchkit.search.final import Final
    from searchkit.search.results import winners

    shares, deadline, ends = _shares(config, own), ctx.deadline, ctx.deadline
    if shares is not None:
        deadline, ends = Deadline.after(shares.search_left(spent)), Deadline.after(max(0.0, shares.both - spent))
    families = [ctx.spaces(name) for name in catalogue.split(str(config.search.space))]
    settings = replace(settings_of(config, own), final_seconds=0.0 if shares is None else shares.final)
    search(families, replace(ctx, deadline=deadline), settings, progress)
    found = winners(ctx.run)
    if not found:
        raise BadInput(
            f"All {config.budget.budget().trials} trials of the shared study were trained elsewhere, so the run "
            f"'{ctx.run.name}' has none of its own to ship; go on in the run that has them, or give more --trials."
        )
    if shares is None:
        return found[0]
    with timing.part("final training"):
        return Final(FINAL_EPOCHS * settings.budget.epochs, shares.final, ends)(found[0], ctx)


def _shares(config: RunConfig, own: Own | None) -> TimeShares | None:
    """How the time budget is shared out; None if there is none."""
    seconds = config.budget.budget().seconds
    if math.isinf(seconds):
        return None
    recipe = (own and own.recipe) or config.compression.recipe
    limited = config.limits.limits() != Limits()
    return share_out(
        seconds,
        stages=config.compression.recipe != "none",
        prunes=recipes.prunes(recipe, config.compression, limited=limited),
    )


def compress(winner: Artifact, ctx: Context, config: RunConfig, own: Own | None = None) -> list[Artifact]:
    """Put a trial through the recipe of the configuration.

    Args:
        winner: the trial.
        ctx: what the stages may use.
        config: the configuration, whose compression is carried out.
        own: the recipe that was given by value, if one was.

    Returns:
        The lineage from the trial to the last artifact.
    """
    from searchkit.stages.pipeline import StageBudget, apply

    curve = ctx.run.log(winner)
    seconds = sorted(row["seconds"] for row in curve if "seconds" in row)
    # The median: a single epoch that other work slowed down does not stretch the plan.
    pace = StageBudget(seconds[len(seconds) // 2] if seconds else 0.0)
    limited = config.limits.limits() != Limits()
    epochs = ctx.training(winner).epochs
    recipe = (own and own.recipe) or config.compression.recipe
    stages = recipes.make(recipe, config.compression, epochs=epochs, limited=limited)
    deadline = Deadline(ctx.deadline.at - EVIDENCE_SECONDS)
    # The stages train in the numbers and the layout in which the winner was trained.
    precision, channels_last = ctx.run.notes(winner, "setting")
    ctx = replace(ctx, deadline=deadline, precision=precision, channels_last=channels_last)
    return apply(stages, winner, ctx, pace=pace)


def bundle_trial(ctx: Context, trial: Artifact, to: Path) -> None:
    """Write the bundle of any trial in fp32 to the new folder `to`; nothing is scored on test.

    It is made in a temporary run, so that what the run shipped, its evidence and its report stay as they are.
    """
    from searchkit.stages.pipeline import apply

    with scratch_folder() as folder:
        # Not `Run.create`, which would write the files of a new run: a folder with this one artifact is all that the
        # stages need.
        aside = Run(folder, ctx.run.config)
        shutil.copytree(ctx.run.artifact_dir(trial.id), aside.artifact_dir(trial.id))
        stages = recipes.make("export", CompressionConfig(), epochs=ctx.training(trial).epochs, limited=False)
        apply(stages, trial, replace(ctx, run=aside))
        copy_folder(aside.bundle, to)


def prove(
    lineage: list[Artifact],
    ctx: Context,
    folder: Path,
    *,
    config: RunConfig | None = None,
    command: list[str] | None = None,
) -> tuple[str, dict[str, Path]]:
    """Score a lineage on test, finish the bundle and write the report.

    Args:
        lineage: from the trial to the artifact that is shipped.
        ctx: what the evaluation may use.
        folder: the report's folder, see `report_folder`.
        config: what asked for this lineage; the run's own if it is None.
        command: the words that asked for it; the run's own if it is None.

    Returns:
        The verdict, and the report's files by their format.
    """
    from searchkit.evaluation import evidence
    from searchkit.report.write import verdict_in, write
    from searchkit.stages.export import finish_bundle

    compression = (config or config_of(ctx.run)).compression
    asked = {"recipe": compression.shown_recipe, "wish": compression, "command": command or ctx.run.config["command"]}
    with timing.part("evaluation"):
        with timing.part("scoring and latency"):
            found = evidence.collect(ctx, lineage, lineage[0], asked=asked)
        finish_bundle(ctx.run, found.to_json())
        with timing.part("report"):
            written = write(ctx.run, found, folder)
    return verdict_in(written), written
