"""Import names of release 0.1, for family files that were written for it: they work for one more release, with a note.

`searchkit.types`, `searchkit.layers` and the other modules are gone. While a family's file is loaded, importing one of
them gives a module that looks each name up where it is now. Remove this module, and its use in `space_file`, in 0.3.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_CORE = ("artifact", "data_spec", "errors", "goal", "network", "serialization", "space", "task", "training")

MOVED: dict[str, tuple[str, ...]] = {
    "searchkit.types": tuple(f"searchkit.core.{name}" for name in _CORE),
    "searchkit.layers": tuple(f"searchkit.nn.{name}" for name in ("parts", "recurrent", "sequence", "convolution")),
    "searchkit.layers_attention": ("searchkit.nn.attention", "searchkit.nn.embedding"),
    "searchkit.layers_graph": ("searchkit.nn.graph",),
    "spaces._encoder": ("searchkit.nn.blocks.encoder",),
    "spaces._forecast": ("searchkit.nn.blocks.forecaster",),
    "spaces._layers": ("searchkit.nn.blocks.layers",),
    "spaces._steps": ("searchkit.nn.blocks.steps",),
}
"""Modules of release 0.1, and where their names are now."""

RENAMED = {
    "Bootstraps": "HasBootstrapValue",
    "Choice": "Categorical",
    "Distances": "RelativePositionBias",
    "Penalised": "HasAuxLoss",
    "Port": "TensorSpec",
    "Restorable": "HasMaskedHead",
    "Resumable": "HasKVCache",
    "SelfTaught": "SelfSupervised",
    "Unembedding": "TiedOutput",
    "initialise_": "initialize_",
    "initialise_head_": "initialize_head_",
}
"""Names that changed, old to new."""


def _between(low: float, high: float, log: bool = False) -> Any:
    """`Between` of release 0.1, which was one class with a flag."""
    from searchkit.core.training import LogUniform, Uniform

    return LogUniform(low, high) if log else Uniform(low, high)


class _OldModule(ModuleType):
    """A module of release 0.1: each name is looked up where it is now."""

    def __getattr__(self, name: str) -> Any:
        if name == "Between" and self.__name__ == "searchkit.types":
            return _between
        for home in MOVED[self.__name__]:
            module = import_module(home)
            if (value := vars(module).get(RENAMED.get(name, name))) is not None:
                return value
        raise AttributeError(f"{self.__name__} of release 0.1 had no {name}; see CHANGELOG.md for the new names")


class _Finder:
    """Finds the modules of MOVED; keeps the names of those that were imported."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name == "spaces":  # the package that held the shared blocks; a folder of that name was found before this
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.used.append(spec.name)
        return _OldModule(spec.name) if spec.name in MOVED else ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def accepted(file: str) -> Iterator[None]:
    """Let code inside import the modules of release 0.1, and log a note that names the ones it did.

    Args:
        file: The family's file, for the note.
    """
    finder = _Finder()
    # last, so that nothing that exists is hidden: a folder `spaces` with a file of its own wins
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.used:
            sys.modules.pop(name, None)  # another file that imports it is told, too
    for name in (name for name in finder.used if name in MOVED):
        homes = ", ".join(MOVED[name])
        logging.getLogger("searchkit").warning(
            "%s imports %s, which moved to %s; the old name works in this release only.", file, name, homes
        )


def adapt(names: dict[str, Any], file: str) -> None:
    """Give classes that were written for release 0.1 the method names of today, and log a note.

    A network's own loss term was called `penalty` and is now `aux_loss`; without this it would be ignored in silence.
    """
    for value in names.values():
        if isinstance(value, type) and "penalty" in vars(value) and not hasattr(value, "aux_loss"):
            value.aux_loss = vars(value)["penalty"]  # type: ignore[attr-defined]
            logging.getLogger("searchkit").warning(
                "%s: rename %s.penalty to aux_loss; the old name works in this release only.", file, value.__name__
            )
