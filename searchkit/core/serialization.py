"""Dataclasses to JSON and back, and digests of JSON that do not depend on its layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from searchkit.core.errors import BadInput

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
    if isinstance(value, np.generic):
        return value.item()
    return value


def thaw(kind: type[T], plain: Mapping[str, JSON]) -> T:
    """Make a dataclass from what `freeze` gave.

    Args:
        kind: A dataclass whose fields are plain values, other such dataclasses, or tuples or dicts of either.
        plain: By field name. Lists become tuples; a dict becomes a dataclass if the field's annotation says so.

    Raises:
        BadInput: `plain` has a field that `kind` lacks, or lacks one that has no default.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - known)
    if unknown:
        raise BadInput(f"{kind.__name__} has no field '{unknown[0]}'; its fields are {', '.join(sorted(known))}.")
    # annotations are read only if needed: those of a family's file may name what it imports for type checkers alone
    hints = get_type_hints(kind) if any(_holds_mapping(value) for value in plain.values()) else {}
    try:
        return kind(**{name: _thawed(hints.get(name), value) for name, value in plain.items()})
    except TypeError as error:
        raise BadInput(f"{kind.__name__} cannot be made from {_shortened(plain)}: {error}.") from error


def _holds_mapping(value: JSON) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_mapping(v) for v in value)
    return isinstance(value, Mapping)


def _thawed(hint: Any, value: JSON) -> Any:
    """The value as its annotation wants it; an annotation that says nothing of dataclasses leaves dicts as they are."""
    if isinstance(value, Mapping):
        wanted = next((h for h in (hint, *get_args(hint)) if isinstance(h, type) and is_dataclass(h)), None)
        if wanted is not None and get_origin(hint) not in (dict, tuple):
            return thaw(wanted, value)
        if wanted is not None and get_origin(hint) is dict:
            return {k: _thawed(wanted, v) for k, v in value.items()}
        return value
    if isinstance(value, list):
        of = get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint) else None
        return tuple(_thawed(of, v) for v in value)
    return value


def _shortened(plain: Mapping[str, JSON], most: int = 120) -> str:
    text = str(plain)
    return text if len(text) <= most else text[: most - 1] + "…"


def digest(*parts: JSON) -> str:
    """12 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps([freeze(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: JSON) -> int:
    """A 31-bit seed that depends on every part and on nothing else."""
    return int(digest("seed", *parts)[:8], 16) & 0x7FFFFFFF
