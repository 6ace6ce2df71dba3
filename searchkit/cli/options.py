"""The options of the verbs: those of the configuration, made from its fields, and those that several verbs share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from searchkit.config import naming, sources
from searchkit.config.options import KINDS, REQUIRED, Option, default_of, options
from searchkit.config.run import SECTIONS, make_section

if TYPE_CHECKING:
    from dataclasses import Field

MOST_USED = "Most used"

FIRST = ("space", "data", "task", "target", "problem", "time_budget", "trials", "max_size", "workers", "resume")
"""The options of that panel, in its order."""

PANELS = {
    "data": "Data",
    "search": "Search",
    "budget": "Budget",
    "limits": "Limits",
    "compression": "Compression",
    "output": "Output",
}
"""Section of the configuration to the panel of the help that shows its options."""

OUTPUT = PANELS["output"]


class Command(TyperCommand):
    """A verb whose --help stands in the last panel, so that the first one holds what is most used."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.help = "Show this message and exit."
            found.rich_help_panel = OUTPUT
            found.metavar = ""
        return found


def shared(*names: str, help: str, **about: Any) -> Any:
    """An option that is no field of the configuration, in the panel Output if no other is named."""
    return typer.Option(*names, help=help, **{"rich_help_panel": OUTPUT, "show_default": False, **about})


RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Name of a run in the folder of runs, or its path.", show_default=False),
]
AsJson = Annotated[bool, shared("--json", metavar="", help="Print one JSON object with a schema version to stdout.")]
Quiet = Annotated[bool, shared("--quiet", "-q", metavar="", help="Show no progress on stderr.")]
Verbose = Annotated[
    int, shared("--verbose", "-v", metavar="", count=True, help="Log more to stderr: -v for information, -vv to debug.")
]
WithProfile = Annotated[
    bool,
    shared("--profile", metavar="", help="Show where the seconds went, and write profile.json into the run's folder."),
]
TrialNumber = Annotated[
    str | None, shared("--trial", metavar="N", help="Number of the trial to use. Default: the best one. Example: 7.")
]
ConfigFile = Annotated[
    Path | None,
    shared(
        "--config",
        metavar="FILE",
        help="TOML file with options, which flags and SEARCHKIT_ variables override. Default: none. Example: my.toml.",
    ),
]
Resume = Annotated[
    str | None,
    shared(
        "--resume",
        metavar="RUN",
        help="Name of a run to go on with, under its own configuration. Default: a new run. Example: cnn-digits-1.",
        rich_help_panel=MOST_USED,
    ),
]


def help_of(about: Option, default: object) -> str:
    """The help of an option: what it sets, the choices, the default and an example, in sentences.

    Args:
        about: the option.
        default: its default; None is told in the option's own words.
    """
    parts = [about.help]
    if allowed := about.allowed():
        parts.append(f"Choices: {', '.join(allowed)}.")
    parts.append("Required." if about.usual == REQUIRED else f"Default: {usual_of(about, default)}.")
    if about.example:
        parts.append(f"Example: {about.example}.")
    return " ".join(parts)


def usual_of(about: Option, default: object) -> str:
    """The default of an option in words."""
    return about.usual if default is None else naming.plain_number(default)


def parameter(section: str, declared: Field[Any], about: Option) -> inspect.Parameter:
    """One option as a parameter of a verb: None or text, for the configuration alone parses it."""
    flag = "--" + declared.name.replace("_", "-")
    made = typer.Option(
        flag,
        metavar=KINDS[about.kind][1] if not about.allowed() else "NAME",
        help=help_of(about, default_of(declared)),
        rich_help_panel=MOST_USED if declared.name in FIRST else PANELS[section],
        show_default=False,
    )
    return inspect.Parameter(
        declared.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, made]
    )


def renamed() -> list[inspect.Parameter]:
    """The options under their old names, which the help leaves out."""
    made = []
    for old in sources.RENAMED:
        hidden = typer.Option("--" + old.replace("_", "-"), hidden=True)
        made.append(
            inspect.Parameter(
                old, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, hidden]
            )
        )
    return made


def configured(*chosen: str, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of the configuration: a decorator.

    The verb takes them as `**given`. Options of the panel "Most used" come first, then section by section.

    Args:
        *chosen: names of sections, or of single options.
        leave_out: names of options of these sections that the verb does not take.
    """
    made = [
        parameter(name, declared, about)
        for name, section in SECTIONS.items()
        for declared, about in options(section)
        if (name in chosen or declared.name in chosen) and declared.name not in leave_out
    ]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(verb, eval_str=True).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        arguments = [p for p in own if p.default is inspect.Parameter.empty]
        flags = [*made, *(p for p in own if p not in arguments)]
        # The sort is stable, so the others stay section by section.
        flags.sort(key=lambda p: FIRST.index(p.name) if p.name in FIRST else len(FIRST))
        every = [*arguments, *flags, *(renamed() if "data" in chosen else [])]
        # Both, since typer reads the names from the signature and the types from the annotations.
        verb.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        verb.__annotations__ = {p.name: p.annotation for p in every}
        return verb

    return decorate


def read_section(section: str, given: Mapping[str, Any], file: Path | None = None) -> Any:
    """One section of the configuration, for a verb that takes no other.

    Raises:
        BadInput: an option of the section has a wrong value.
    """
    return make_section(SECTIONS[section], layers(given, file))


def layers(given: Mapping[str, Any], file: Path | None) -> sources.Layer:
    """The values of the options: flags before environment variables, before a file; what is in none has its default.

    Args:
        given: flags by name, with their text.
        file: a TOML file.

    Raises:
        BadInput: the file cannot be read, or has an unknown key.
    """
    found = [sources.flags(given, SECTIONS), sources.environment(os.environ, SECTIONS)]
    return sources.merge([*found, *([] if file is None else [sources.toml_file(file, SECTIONS)])])
