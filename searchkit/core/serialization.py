"""Dataclasses to JSON and back, and digests that do not depend on the order of keys."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

from searchkit.core.data_spec import brief
from searchkit.core.errors import BadInput
from searchkit.core.typed import Mismatch, conform, shown

JSON: TypeAlias = Any
"""What `json.dumps` takes: dict, list, str, int, float, bool or None."""

T = TypeVar("T")


def freeze(value: Any) -> JSON:
    """Convert a dataclass or nested plain values to JSON.

    Tuples become lists, and numpy scalars become Python numbers.
    """
    if is_dataclass(value) and not isinstance(value, type):  # is_dataclass is true of the class itself, too
        return {f.name: freeze(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): freeze(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(v) for v in value]
    numpy = sys.modules.get("numpy")  # not imported for this: the help of the command line needs no numpy
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    return value


def thaw(kind: type[T], plain: JSON, *, file: str = "", whole: bool = False) -> T:
    """The inverse of `freeze`: a value of `kind` from plain JSON, checked field by field against its annotations.

    Args:
        kind: A dataclass, or any other annotation that `typed.conform` knows, such as a typed dict.
        plain: What a file or a caller holds.
        file: What `plain` was read from, for the message.
        whole: Whether even a field that has a default must be there, because `freeze` has written it.

    Raises:
        BadInput: A field is missing, unknown, of another type or out of range; the sentence names it.
    """
    try:
        found: T = conform(plain, kind, whole=whole)
    except Mismatch as problem:
        raise BadInput(_of_file(str(problem), kind, file)) from problem
    except (TypeError, AttributeError, LookupError) as error:  # a family's own __post_init__
        said = f"{kind.__name__} cannot be made from {shown(plain)}: {brief(error)}"
        raise BadInput(_of_file(said, kind, file)) from error
    except BadInput as problem:
        raise BadInput(f"{file}: {problem}" if file else str(problem)) from problem
    return found


def _of_file(problem: str, kind: type, file: str) -> str:
    if file:
        return f"In {file}, {problem}; restore the file, or start a new run."
    return f"{problem[0].upper() + problem[1:]}; it is part of {kind.__name__}."


def digest(*parts: JSON) -> str:
    """Return 12 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps([freeze(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def qualified_name(value: object) -> str:
    """The module and name of a function, or of the class of any other value: "strangers.Walk"."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def derive_seed(*parts: JSON) -> int:
    """Return a 31-bit seed that depends on every part and on nothing else."""
    return int(digest("seed", *parts)[:8], 16) & 0x7FFFFFFF
