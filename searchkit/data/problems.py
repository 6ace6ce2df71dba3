"""What each problem says of itself, read from the text of its module: no module is run to list or describe them.

A module below `searchkit/tasks` names its problems in `PROBLEMS = {name: ProblemSpec(..., ProblemInfo(...), ...)}`. The
keywords of `ProblemInfo` are literals, so this lower layer can read them without importing the module or torch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parents[1] / "tasks"

Reading = Literal["examples", "text", "pairs", "series"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemInfo:
    """What readers, help and the data summary need to know of a problem. Every value is a literal.

    Attributes:
        shown: The name that users write, if it is not the one that runs and packed tasks hold.
        description: What the problem asks for, as a phrase for help: "one of several classes".
        predicts: The same for one data set, as the data summary shows it; `{n}` stands for the number of classes.
        selectable: Whether a user may ask for it by name; False if only packaged tasks have it.
        labeled: Whether it needs a target; False if it looks at the inputs alone.
        reads: How a file is read for it: "examples" one a row or file, "text" one running text, "pairs" of texts, or
            "series" one table with a row a step.
        fields: Options of the data (see `searchkit.config.data`) that only this problem has a use for.
        asked_by: Those of `fields` that ask for it without its name.
        suits: The data that `fields` are for, as an error names it; "" if the problem's name says enough.
        vocabulary: Tokens at most if the user says nothing; None leaves it to the reader.
    """

    description: str
    predicts: str
    shown: str = ""
    selectable: bool = True
    labeled: bool = True
    reads: Reading = "examples"
    fields: tuple[str, ...] = ()
    asked_by: tuple[str, ...] = ()
    suits: str = ""
    vocabulary: int | None = None


@cache
def problems() -> dict[str, ProblemInfo]:
    """Every problem by name, in the order of the files and of what each declares."""
    found: dict[str, ProblemInfo] = {}
    for file in sorted(FOLDER.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\nPROBLEMS = " in text:
            found |= _declared(text)
    return found


def _declared(text: str) -> dict[str, ProblemInfo]:
    """Parses the dictionary alone, not its whole module: help waits for this, and it takes a tenth of the time."""
    lines = text[text.index("\nPROBLEMS = ") + 1 :].split("\n")
    # A dictionary of one line ends in a brace; one of several ends at the line that is a brace alone.
    end = next(k for k, line in enumerate(lines) if line.endswith("}") and (k == 0 or line == "}"))
    (assignment,) = ast.parse("\n".join(lines[: end + 1])).body
    assert isinstance(assignment, ast.Assign) and isinstance(assignment.value, ast.Dict)
    pairs = zip(assignment.value.keys, assignment.value.values, strict=True)
    return {ast.literal_eval(key): _info(value) for key, value in pairs if key is not None}


def _info(node: ast.expr) -> ProblemInfo:
    (call,) = (
        inner for inner in ast.walk(node) if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "ProblemInfo"
    )
    return ProblemInfo(**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})


def selectable() -> tuple[str, ...]:
    """The names that a user may ask for, in alphabetical order."""
    return tuple(sorted(shown(name) for name, info in problems().items() if info.selectable))


def shown(problem: str) -> str:
    """The name that users write for a problem; one that is not known stays as it is."""
    info = problems().get(problem)
    return info.shown or problem if info is not None else problem


def renamed() -> dict[str, str]:
    """The names of problems that runs hold, to the names that users write, if the two differ."""
    return {name: info.shown for name, info in problems().items() if info.shown}


def stored(problem: str) -> str:
    """The name that runs and packed tasks hold for a problem; the inverse of `shown`."""
    return next((name for name, word in renamed().items() if word == problem), problem)


def asked_by() -> dict[str, str]:
    """Options of the data that ask for a problem without its name, and that problem."""
    return {field: name for name, info in problems().items() for field in info.asked_by}


def fields_of_one_problem() -> dict[str, str]:
    """The other options that mean nothing to any other problem than one, and that problem."""
    return {field: name for name, info in problems().items() for field in info.fields if field not in info.asked_by}


def that_read(reading: Reading) -> tuple[str, ...]:
    """The names of the problems whose data are read in this way."""
    return tuple(name for name, info in problems().items() if info.reads == reading)


def reading_of(problem: str | None) -> Reading:
    """How data are read for a problem; "examples" if none was asked for, or its name is not known."""
    info = problems().get(problem or "")
    return "examples" if info is None else info.reads
