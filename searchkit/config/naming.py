"""How the user wrote an option: as a flag, a keyword, an environment variable, or a key of a file.

A sentence about a wrong value names the option as the user wrote it. The dataclasses check their values when they are
made, and do not know who makes them; so whoever reads the values says where each came from, for the time of the making.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches

ENVIRONMENT_PREFIX = "SEARCHKIT_"

LONGEST_VALUE = 40
"""Characters of a wrong value that a sentence repeats."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of an option came from.

    Args:
        kind: "flag", "keyword", "environment" or "file".
        where: for a file, the words that name the place, such as "[limits] of my.toml".
    """

    kind: str
    where: str = ""

    def mention(self, name: str) -> str:
        """The option without a value, such as --max-size."""
        if self.kind == "flag":
            return "--" + name.replace("_", "-")
        return variable(name) if self.kind == "environment" else name

    def given(self, name: str, value: object) -> str:
        """The option with the value that it was given, such as --max-size '10XB'."""
        if self.kind == "flag":
            return f"{self.mention(name)} {quote(value)}"
        if self.kind == "file":
            return f"{name} = {quote(value)} in {self.where}"
        return f"{self.mention(name)}={quote(value)}"

    def advice(self, name: str, value: str) -> str:
        """What to write to give the option a value, such as --executor ray."""
        if self.kind == "flag":
            return f"{self.mention(name)} {value}"
        return f'{name} = "{value}"' if self.kind == "file" else f"{self.mention(name)}='{value}'"


FLAG = Origin("flag")
KEYWORD = Origin("keyword")
ENVIRONMENT = Origin("environment")


@dataclass(frozen=True, slots=True)
class _Naming:
    usual: Origin = FLAG
    origins: Mapping[str, Origin] = field(default_factory=dict)


_AS_FLAGS = _Naming()
# Of the context, not global: threads that make configurations at once do not name each other's options.
_NAMING: ContextVar[_Naming] = ContextVar("naming", default=_AS_FLAGS)


@contextmanager
def written(usual: Origin, origins: Mapping[str, Origin] | None = None) -> Iterator[None]:
    """Within this block, sentences name options as they were written.

    Args:
        usual: of every option that `origins` does not hold.
        origins: by the field's name.
    """
    token = _NAMING.set(_Naming(usual, origins or {}))
    try:
        yield
    finally:
        _NAMING.reset(token)


def origin(name: str) -> Origin:
    """Where the value of the field `name` came from."""
    naming = _NAMING.get()
    return naming.origins.get(name, naming.usual)


def mention(name: str) -> str:
    """The option as the user writes it, without a value."""
    return origin(name).mention(name)


def given(name: str, value: object) -> str:
    """The option as the user wrote it, with its value."""
    return origin(name).given(name, value)


def advice(name: str, value: str) -> str:
    """What to write to give the option this value."""
    return origin(name).advice(name, value)


def variable(name: str) -> str:
    """The environment variable of a field."""
    return ENVIRONMENT_PREFIX + name.upper()


def quote(value: object) -> str:
    """A value in a sentence: numbers bare, words in quotes, long values cut."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if len(text) > LONGEST_VALUE:
        text = text[: LONGEST_VALUE - 1] + "…"
    return text if re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text) else f"'{text}'"


def listed(words: tuple[str, ...]) -> str:
    """Words as a sentence lists them: a, b or c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def nearest(word: str, known: tuple[str, ...]) -> str:
    """A question that names the known word which is most like `word`, with a space before it; empty if none is."""
    near = get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def plain_number(value: object) -> str:
    """A default as users write it: 2, not 2.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
