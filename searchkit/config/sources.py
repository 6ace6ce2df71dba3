"""Where values come from: keywords, flags, environment variables and TOML files, and which of them counts.

A layer is a mapping from the option's name to the value and its origin. Of two layers the first counts.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchkit.config import naming
from searchkit.config.naming import ENVIRONMENT_PREFIX, Origin
from searchkit.config.options import Option, options
from searchkit.core import catalogue
from searchkit.core.errors import BadInput

RENAMED = {"kind": "problem"}
"""Options that changed their name, old to new; the old names work for one more release."""

RENAMED_UNTIL = "the next release"

EXCLUSIVE = ("task", "data")
"""Of these two, the one in the first layer counts, and the other is not looked at."""

OTHER_VARIABLES = ("SEARCHKIT_DATASETS",)
"""Environment variables that begin with the prefix and are no options."""

log = logging.getLogger("searchkit")

Sections = Mapping[str, type]


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and where."""

    value: Any
    origin: Origin


Layer = Mapping[str, Given]


def known(sections: Sections) -> dict[str, tuple[str, Option]]:
    """Name of every option to its section and what is known of it."""
    return {declared.name: (name, about) for name, section in sections.items() for declared, about in options(section)}


def keywords(given: Mapping[str, Any], sections: Sections) -> Layer:
    """The layer of keyword arguments; None means not given.

    Raises:
        BadInput: a keyword is no option.
    """
    return _layer(given, naming.KEYWORD, sections)


def flags(given: Mapping[str, Any], sections: Sections) -> Layer:
    """The layer of a command line's flags; None means not given.

    Args:
        given: by the option's name; other parameters of the verb are left out.
        sections: the dataclasses of the configuration, by name.
    """
    options = {*known(sections), *RENAMED}
    return _layer({name: value for name, value in given.items() if name in options}, naming.FLAG, sections)


def environment(variables: Mapping[str, str], sections: Sections) -> Layer:
    """The layer of environment variables such as SEARCHKIT_MAX_SIZE. An unknown one is noted and left alone."""
    options, found = known(sections), {}
    for variable, value in sorted(variables.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES or not value:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in options or name in RENAMED:
            found[name] = value
        else:
            near = naming.nearest(variable, tuple(naming.variable(name) for name in options))
            log.warning("The environment variable %s is no option of searchkit.%s", variable, near)
    return _layer(found, naming.ENVIRONMENT, sections)


def toml_file(file: Path, sections: Sections) -> Layer:
    """The layer of a TOML file with a table for each section. Paths in it are relative to its folder.

    Raises:
        BadInput: the file cannot be read, or a table or a key in it is unknown.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"The configuration {file} cannot be read ({error.strerror}); give the path of a TOML file."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"The configuration {file} is not valid TOML ({error}); `searchkit config` writes one to begin with."
        ) from error
    return tables_of(tables, str(file), sections, base=file.parent)


def tables_of(tables: Mapping[str, Any], where: str, sections: Sections, *, base: Path | None = None) -> Layer:
    """The layer of the tables that a TOML or JSON file holds.

    Args:
        tables: by section.
        where: the words that name the file.
        sections: the dataclasses of the configuration, by name.
        base: the folder that paths are relative to; None leaves them as they are.

    Raises:
        BadInput: a table or a key is unknown.
    """
    layer: dict[str, Given] = {}
    for table, values in tables.items():
        if table not in sections:
            raise BadInput(_unknown_table(table, where, sections))
        if not isinstance(values, Mapping):
            raise BadInput(f"{table} = {naming.quote(values)} in {where} is no table; begin one with a line [{table}].")
        # Without a base this is the file of a run, which also holds the fields that users do not set.
        own = {declared.name: about for declared, about in options(sections[table], internal=base is None)}
        for key, value in values.items():
            name = RENAMED.get(key, key)
            if name not in own:
                raise BadInput(_unknown_key(key, table, where, sections))
            place = Origin("file", f"[{table}] of {where}")
            _note_old_names(key, value, place, own[name])
            layer[name] = Given(value if base is None else _from_folder(name, value, own[name], base), place)
    return {name: given for name, given in layer.items() if given.value is not None}  # null in run.json: not given


def merge(layers: Sequence[Layer]) -> Layer:
    """One layer: of every option the value of the first layer that has it."""
    merged: dict[str, Given] = {}
    for layer in layers:
        # Before the layer's own options are added: one that holds both keeps both, which DataConfig refuses.
        taken = any(name in merged for name in EXCLUSIVE)
        for name, given in layer.items():
            if name not in merged and not (taken and name in EXCLUSIVE):
                merged[name] = given
    return merged


@contextmanager
def named(values: Layer) -> Iterator[None]:
    """Within this block, sentences name the options as these values were written."""
    origins = {name: given.origin for name, given in values.items()}
    kinds = {origin.kind: origin for origin in origins.values()}
    # what was not given is named as most users of this way would write it
    usual = next((kinds[kind] for kind in ("flag", "keyword", "file") if kind in kinds), naming.FLAG)
    with naming.written(Origin(usual.kind, usual.where), origins):
        yield


def _layer(given: Mapping[str, Any], origin: Origin, sections: Sections) -> Layer:
    layer: dict[str, Given] = {}
    options = known(sections)
    for key, value in given.items():
        if value is None:
            continue
        name = RENAMED.get(key, key)
        if name not in options:
            raise BadInput(f"No option named {naming.quote(key)}.{naming.nearest(key, tuple(options))}")
        _note_old_names(key, value, origin, options[name][1])
        layer[name] = Given(_absolute(name, value), origin)
    return layer


def _note_old_names(key: str, value: object, origin: Origin, about: Option) -> None:
    """Tell the log that an old name was used, which works for one more release."""
    name = RENAMED.get(key, key)
    if name != key:
        note = "%s is now called %s; the old name works until %s."
        log.warning(note, origin.mention(key), origin.mention(name), RENAMED_UNTIL)
    if isinstance(value, str) and value in about.renamed_choices():
        note = "%s is now called %s; the old name works until %s."
        log.warning(note, origin.given(name, value), about.renamed_choices()[value], RENAMED_UNTIL)


def _absolute(name: str, value: Any) -> Any:
    """Data that are found now must be found by a run that is resumed from another folder."""
    return str(Path(value).resolve()) if name in ("data", "test_data") and _is_path(value) else value


def _from_folder(name: str, value: Any, about: Option, base: Path) -> Any:
    if name == "space" and isinstance(value, str):
        parts = catalogue.split(value)
        return ",".join(str(base / part) if part.endswith(".py") or "/" in part else part for part in parts)
    return _absolute(name, str(base / value)) if about.kind == "path" and _is_path(value) else value


def _is_path(value: object) -> bool:
    return bool(value) and (isinstance(value, str) or hasattr(value, "__fspath__"))


def _unknown_table(table: str, where: str, sections: Sections) -> str:
    names = tuple(sections)
    home = known(sections).get(RENAMED.get(table, table))
    if home is not None:
        return f"The key '{table}' of {where} stands in no table; it belongs to [{home[0]}]."
    tables = naming.listed(tuple(f"[{name}]" for name in names))
    return f"{where} has no table [{table}]; the tables are {tables}.{naming.nearest(table, names)}"


def _unknown_key(key: str, table: str, where: str, sections: Sections) -> str:
    options = known(sections)
    if key in options:
        return f"The key '{key}' stands in [{table}] of {where}; it belongs to [{options[key][0]}]."
    own = tuple(name for name, (section, _) in options.items() if section == table)
    near = naming.nearest(key, own) or naming.nearest(key, tuple(options))
    if not near:
        near = f" The keys of this table are {', '.join(own)}."
    return f"[{table}] of {where} has no key '{key}'.{near}"
