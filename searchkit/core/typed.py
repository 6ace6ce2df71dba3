"""Check plain JSON against a type: what a file should hold is written once, as annotations, and read by one function.

`conform` knows dataclasses, typed dicts, lists, tuples, dicts, unions, literals, and what `Annotated` adds: a range, or
a few allowed texts. It says which field is wrong, and how; the file and the way out are the caller's business.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

SHOWN = 40
"""Characters of a wrong value in a message."""


class Mismatch(Exception):
    """A value is not what its type says: the sentence names the field."""


@dataclass(frozen=True, slots=True)
class Range:
    """In `Annotated`: a number from low to high; with `open`, low itself is left out. NaN is in no range."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        least = "" if math.isinf(self.low) else f"above {self.low:g}" if self.open else f"of at least {self.low:g}"
        most = "" if math.isinf(self.high) else f"at most {self.high:g}"
        return " and ".join(part for part in (least, most) if part) or "that is finite"


@dataclass(frozen=True, slots=True)
class OneOf:
    """In `Annotated`: one of these texts."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileName:
    """In `Annotated`: a text that names one file or folder, without a path."""


@dataclass(frozen=True, slots=True)
class As:
    """In `Annotated`: plain JSON that is checked against another annotation, and stays as it is."""

    hint: Any


Count = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Name = Annotated[str, FileName()]

_PLAIN: dict[Any, str] = {
    str: "a text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null",
    dict: "an object", list: "a list", tuple: "a list",
}  # fmt: skip


def conform(value: Any, hint: Any, path: str = "", *, whole: bool = False) -> Any:
    """`value` as `hint` says: lists become the tuples and objects the dataclasses that it names; the rest stays.

    Args:
        value: Plain JSON.
        hint: An annotation, resolved. `Any` takes everything.
        path: The field's name with dots, for messages.
        whole: Whether the fields of a dataclass that have a default must be there too.

    Raises:
        Mismatch: A field is missing, of another type or out of range; in a dataclass, unknown.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, str):
        return value
    if origin is Annotated:
        for extra in arguments[1:]:
            if isinstance(extra, As):
                conform(value, extra.hint, path, whole=whole)
        return _in_range(conform(value, arguments[0], path, whole=whole), arguments[1:], path, arguments[0])
    if origin in (Required, NotRequired):
        return conform(value, arguments[0], path, whole=whole)
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, path, whole)
    if origin is Literal:
        # True == 1 in Python: a bool is refused where the literals are numbers.
        if value not in arguments or isinstance(value, bool) and True not in arguments and False not in arguments:
            raise _wrong(value, f"one of {', '.join(map(str, arguments))}", path)
        return value
    if is_typeddict(hint) or is_dataclass(hint):
        return _record(value, hint, path, whole)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return _items(value, origin or hint, arguments, path, whole)
    if origin in (dict, Mapping) or hint is dict:
        _require(isinstance(value, Mapping), value, "an object", path)
        inner = arguments[1] if arguments else Any
        return {key: conform(item, inner, _joined(path, key), whole=whole) for key, item in value.items()}
    if hint is float:  # bool is a subclass of int, and is refused as a number
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), value, _PLAIN[float], path)
    elif hint is int:
        _require(isinstance(value, int) and not isinstance(value, bool), value, _PLAIN[int], path)
    elif hint in (str, bool, type(None)):
        _require(isinstance(value, hint), value, _PLAIN[hint], path)
    return value


def shown(value: object) -> str:
    """A value for a message, shortened."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else repr(value)
    return text if text and len(text) <= SHOWN else f"{str(text)[:SHOWN]}…"


def tuples(value: object) -> Any:
    """Lists, however deep, as tuples."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def _record(value: Any, hint: Any, path: str, whole: bool) -> Any:
    _require(isinstance(value, Mapping), value, "an object", path)
    hints = _hints(hint)
    if is_typeddict(hint):
        # not `__required_keys__`: with annotations as strings Python counts what is NotRequired among them
        needed = {name for name, one in hints.items() if get_origin(one) is not NotRequired and hint.__total__}
    else:
        known = {f.name for f in fields(hint) if f.init}
        needed = {f.name for f in fields(hint) if f.init and (whole or _has_no_default(f))}
        unknown = sorted(set(value) - known)
        if unknown:
            where = f"'{path}'" if path else hint.__name__
            raise Mismatch(f"{where} has no field '{unknown[0]}'; its fields are {', '.join(sorted(known))}")
    for name in hints:
        if name in needed and name not in value:
            raise Mismatch(f"the field '{_joined(path, name)}' is missing")
    found = {
        name: conform(item, hints[name], _joined(path, name), whole=whole) if name in hints else item
        for name, item in value.items()
    }
    if is_typeddict(hint):
        return found
    # Lists in fields of any type become tuples: a frozen dataclass that holds a list cannot be hashed.
    return hint(**{name: tuples(item) if hints.get(name, Any) is Any else item for name, item in found.items()})


def _has_no_default(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


@cache
def _hints(hint: Any) -> dict[str, Any]:
    """Annotations that cannot be resolved, such as a name that is imported for type checkers alone, take everything."""
    try:
        return get_type_hints(hint, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return dict.fromkeys(hint.__annotations__, Any)


def _items(value: Any, kind: Any, arguments: tuple[Any, ...], path: str, whole: bool) -> Any:
    _require(isinstance(value, (list, tuple)), value, "a list", path)
    if kind is tuple and not arguments:
        return tuples(list(value))
    hints = arguments or (Any,)
    if kind is not tuple or len(hints) == 2 and hints[1] is Ellipsis:
        hints = hints[:1] * len(value)
    _require(len(value) == len(hints), value, f"a list of {len(hints)}", path)
    found = [
        conform(item, hint, f"{path}[{index}]", whole=whole)
        for index, (item, hint) in enumerate(zip(value, hints, strict=True))
    ]
    return tuple(tuples(found)) if kind is tuple else found


def _one_of(value: object, options: tuple[object, ...], path: str, whole: bool) -> Any:
    problems = []
    for option in options:
        try:
            return conform(value, option, path, whole=whole)
        except Mismatch as problem:
            problems.append((option, problem))
    # of several, the one that it was meant to be: an object is no failed null
    records = [problem for option, problem in problems if is_typeddict(option) or is_dataclass(option)]
    if records and isinstance(value, Mapping):
        raise records[0]
    others = [problem for option, problem in problems if option is not type(None)]
    if len(others) == 1:
        raise others[0]
    raise _wrong(value, " or ".join(dict.fromkeys(_described(option) for option in options)), path)


def _in_range(value: Any, extras: tuple[object, ...], path: str, hint: Any) -> Any:
    if value is None:  # of an optional field
        return value
    for extra in extras:
        if isinstance(extra, Range) and not extra.holds(value):
            raise _wrong(value, f"{_described(hint)} {extra}", path)
        if isinstance(extra, OneOf) and value not in extra.values:
            raise _wrong(value, f"one of {', '.join(extra.values)}", path)
        if isinstance(extra, FileName) and (value in ("", ".", "..") or any(c in value for c in "/\\\0")):
            raise _wrong(value, "the name of one file", path)
    return value


def _described(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _described(get_args(hint)[0])
    return _PLAIN.get(hint) or _PLAIN.get(get_origin(hint)) or "an object"


def _require(holds: bool, value: object, wanted: str, path: str) -> None:
    if not holds:
        raise _wrong(value, wanted, path)


def _wrong(value: object, wanted: str, path: str) -> Mismatch:
    return Mismatch(
        f"the field '{path}' is {shown(value)}, not {wanted}" if path else f"{shown(value)} is not {wanted}"
    )


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
