"""One option: its help, kind, choices, bounds and example, declared in the metadata of a dataclass field.

`option` makes the field, `settle` parses and checks every field of a dataclass that is being made. The command line,
the TOML file, the JSON schema and the documentation read the same metadata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Real
from typing import Any

from searchkit.config import naming
from searchkit.core import quantities
from searchkit.core.errors import BadInput

KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "text": ("a text", "TEXT", ("string",)),
    "path": ("a path", "PATH", ("string",)),
    "whole": ("a whole number", "N", ("integer",)),
    "number": ("a number", "X", ("number",)),
    "size": ("a size", "SIZE", ("integer", "string")),
    "latency": ("a latency", "TIME", ("number", "string")),
    "count": ("a count", "N", ("integer", "string")),
    "duration": ("a duration", "TIME", ("number", "string")),
    "switch": ("true or false", "", ("boolean",)),
}
"""Kind of value: its name in a sentence, its placeholder in the help, its types in JSON.

A number without a unit means bytes for a size, milliseconds for a latency and seconds for a duration.
"""

QUANTITIES = ("size", "latency", "count", "duration")
WHOLE = ("whole", "size", "count")

REQUIRED = "required"
"""What `Option.usual` says of an option that has no default."""

Choices = tuple[str, ...] | Callable[[], tuple[str, ...]]
Renamed = Mapping[str, str] | Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of one option beside its name, type and default.

    Args:
        help: one or two sentences; the first word is a noun or a verb.
        kind: a key of `KINDS`.
        choices: the allowed words, or a function that finds them; () allows any.
        low: the lowest value, or the bound above which it lies if `above` is set.
        high: the highest value, or the bound below which it lies if `below` is set.
        above: whether `low` itself is refused.
        below: whether `high` itself is refused.
        usual: the default in words, if the default is None.
        example: a value as the user writes it.
        renamed: names of choices that changed, old to new, or a function that finds them; the old ones work for one
            more release.
        internal: whether runs store it and users do not set it.
    """

    help: str
    kind: str = "text"
    choices: Choices = ()
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    usual: str = ""
    example: str = ""
    renamed: Renamed = field(default_factory=dict)
    internal: bool = False

    def allowed(self) -> tuple[str, ...]:
        """The allowed words; () if any is."""
        return self.choices() if callable(self.choices) else self.choices

    def renamed_choices(self) -> Mapping[str, str]:
        """The names of choices that changed, old to new."""
        return self.renamed() if callable(self.renamed) else self.renamed

    def bounds(self) -> str:
        """The bounds in words, such as "at least 0 and below 1"; empty if there are none."""
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high is None else f"{'below' if self.below else 'at most'} {self.high:g}"
        return " and ".join(part for part in (low, high) if part)

    def inside(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        low, high = self.low, self.high
        if not math.isfinite(value):
            return False
        if low is not None and (value < low or (self.above and value == low)):
            return False
        return not (high is not None and (value > high or (self.below and value == high)))


def option(default: Any, help: str, **about: Any) -> Any:
    """A field of a configuration that users set.

    Args:
        default: its value if it is not given; None if that depends on the data or the family.
        help: see `Option`.
        **about: the other fields of `Option`.
    """
    return field(default=default, metadata={"option": Option(help, **about)})


def options(section: type, *, internal: bool = False) -> Iterator[tuple[Field[Any], Option]]:
    """The options of a dataclass, in the order of its fields.

    Args:
        section: the dataclass.
        internal: whether to yield those too that users do not set.
    """
    for declared in fields(section):
        about: Option = declared.metadata["option"]
        if internal or not about.internal:
            yield declared, about


def default_of(declared: Field[Any]) -> Any:
    """The default of a field; None if it has none."""
    return None if declared.default is MISSING else declared.default


def settle(section: Any) -> None:
    """Parse every option of a frozen dataclass in its `__post_init__`, and put the parsed value in its place.

    Raises:
        BadInput: a value is of another kind, not among the choices, or out of bounds.
    """
    for declared, about in options(type(section), internal=True):
        value = getattr(section, declared.name)
        # None is "not given" where it is the default; anywhere else it is a wrong value, and `parse` refuses it.
        if value is None and declared.default is None:
            continue
        object.__setattr__(section, declared.name, parse(about, declared.name, value))


def parse(about: Option, name: str, value: object) -> Any:
    """A value as the user gave it, as the value that the option holds.

    Args:
        about: the option.
        name: its field's name.
        value: a number, or text; "100KB" and 100000 mean the same size.

    Raises:
        BadInput: the value is of another kind, not among the choices, or out of bounds.
    """
    if about.kind == "switch":
        if not isinstance(value, bool):
            raise BadInput(f"{naming.given(name, value)} is not {_noun(about)}; write one of the two.")
        return value
    if about.kind in ("text", "path"):
        return _word(about, name, value)
    number = _number(about, name, value)
    if not about.inside(number):
        bounds = about.bounds() or "finite"
        raise BadInput(
            f"{naming.given(name, value)} is out of range; give {_noun(about)} that is {bounds}{_such(about)}."
        )
    return int(number) if about.kind in WHOLE else number


def _word(about: Option, name: str, value: object) -> str:
    # An int passes, for a column may be named by its number; a bool is one to Python, and does not.
    if isinstance(value, bool) or not (isinstance(value, (str, int)) or hasattr(value, "__fspath__")):
        raise BadInput(f"{naming.given(name, value)} is {_json_name(value)}; give {_noun(about)}{_such(about)}.")
    word = about.renamed_choices().get(str(value), str(value))
    allowed = about.allowed()
    if allowed and word not in allowed:
        near = naming.nearest(word, allowed)
        raise BadInput(f"{naming.given(name, value)} is unknown; choose {naming.listed(allowed)}.{near}")
    if not word:
        raise BadInput(f"{naming.given(name, value)} is empty; give {_noun(about)}{_such(about)}, or leave it out.")
    return word


def _number(about: Option, name: str, value: object) -> float:
    """The number that a value stands for; bounds are not looked at."""
    wrong = BadInput(f"{naming.given(name, value)} is not {_noun(about)}; write one{_such(about)}.")
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        raise wrong
    if about.kind in QUANTITIES:
        if isinstance(value, str):
            return quantities.parse(about.kind, value, naming.given(name, value))
        return float(value)
    try:
        if about.kind == "whole":
            # Text by int() alone: by way of a float, a whole number above 2**53 would be rounded.
            return int(value) if isinstance(value, str) else _whole(float(value))
        return float(value)
    except (ValueError, OverflowError):
        raise wrong from None


def _whole(value: float) -> int:
    """Raises ValueError if the number is not whole; int() would cut it."""
    if not value.is_integer():
        raise ValueError(value)
    return int(value)


def _noun(about: Option) -> str:
    return KINDS[about.kind][0]


def _such(about: Option) -> str:
    return f", such as {about.example}" if about.example else ""


def _json_name(value: object) -> str:
    names = {bool: "true or false", list: "a list", dict: "a table", float: "a number", type(None): "empty"}
    return names.get(type(value), f"a {type(value).__name__}")
