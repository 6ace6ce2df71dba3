"""Dataclasses to JSON and back, and digests of JSON that do not depend on its layout."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from searchkit.core.errors import BadInput

if TYPE_CHECKING:
    pass

JSON: TypeAlias = Any

"""What `json.dumps` takes: dict, list, str, int, float, bool or None."""


T = TypeVar("T")


def freeze(value: Any) -> JSON:
    """A dataclass, or a nest of plain values, as JSON: tuples become lists, numpy scalars become numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: freeze(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): freeze(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(v) for v in value]
    numpy = sys.modules.get("numpy")  # not imported for this: the help of the command line needs no numpy
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    return value


def thaw(kind: type[T], plain: JSON) -> T:
    """The inverse of `freeze` for a dataclass whose fields are plain values or tuples of them.

    Raises BadInput where `plain` has a field that `kind` lacks, or lacks one that has no default.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - known)
    if unknown:
        raise BadInput(f"{kind.__name__} has no field '{unknown[0]}'; its fields are {', '.join(sorted(known))}.")
    try:
        return kind(**{name: _tuples(value) for name, value in plain.items()})
    except TypeError as error:
        raise BadInput(f"{kind.__name__} cannot be made from {plain}: {error}.") from error


def _tuples(value: JSON) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def digest(*parts: JSON) -> str:
    """12 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps([freeze(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: JSON) -> int:
    """A 31-bit seed that depends on every part and on nothing else."""
    return int(digest("seed", *parts)[:8], 16) & 0x7FFFFFFF
