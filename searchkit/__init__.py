"""searchkit finds a small, accurate network for a data set and a device, makes it smaller, and proves it.

    import searchkit

    result = searchkit.search("mlp", table, target="income", budget="10m")
    result.predict(new_rows)

Importing it imports nothing else: each name below is loaded when it is first used.
"""

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Each name as itself: without the `as`, mypy does not count it as exported.
    from searchkit.api.result import Result as Result
    from searchkit.api.runs import compress as compress
    from searchkit.api.runs import load_run as load_run
    from searchkit.api.runs import resume as resume
    from searchkit.api.runs import search as search
    from searchkit.api.spaces import create_model as create_model
    from searchkit.api.spaces import list_spaces as list_spaces
    from searchkit.api.spaces import list_tasks as list_tasks
    from searchkit.api.spaces import load_space as load_space
    from searchkit.api.trials import TrialInfo as TrialInfo
    from searchkit.core.data_spec import DataSpec as DataSpec
    from searchkit.core.data_spec import TensorSpec as TensorSpec
    from searchkit.core.errors import BadInput as BadInput
    from searchkit.core.errors import GateFailed as GateFailed
    from searchkit.core.errors import Infeasible as Infeasible
    from searchkit.core.errors import NothingFeasible as NothingFeasible
    from searchkit.core.errors import NotInstalled as NotInstalled
    from searchkit.core.errors import SearchkitError as SearchkitError
    from searchkit.core.interrupt import Interrupted as Interrupted
    from searchkit.core.space import Budget as Budget
    from searchkit.core.space import Limits as Limits
    from searchkit.core.space import Sharing as Sharing
    from searchkit.core.space import Space as Space
    from searchkit.core.space import Trial as Trial
    from searchkit.core.training import Categorical as Categorical
    from searchkit.core.training import LogUniform as LogUniform
    from searchkit.core.training import Training as Training
    from searchkit.core.training import TrainingSpace as TrainingSpace
    from searchkit.core.training import Uniform as Uniform
    from searchkit.search.sampler import Sampler as Sampler
    from searchkit.search.settings import StopSearch as StopSearch
    from searchkit.stages.distill import Distill as Distill
    from searchkit.stages.export import Export as Export
    from searchkit.stages.promote import Promote as Promote
    from searchkit.stages.prune import Prune as Prune
    from searchkit.stages.quantize import Quantize as Quantize
    from searchkit.stages.recipe import Recipe as Recipe
    from searchkit.tasks.own_metric import Metric as Metric

__version__ = "0.1.0"

_HOMES = {
    "Result": "api.result",
    "compress": "api.runs",
    "load_run": "api.runs",
    "resume": "api.runs",
    "search": "api.runs",
    "create_model": "api.spaces",
    "list_spaces": "api.spaces",
    "list_tasks": "api.spaces",
    "load_space": "api.spaces",
    "TrialInfo": "api.trials",
    "DataSpec": "core.data_spec",
    "TensorSpec": "core.data_spec",
    "BadInput": "core.errors",
    "GateFailed": "core.errors",
    "Infeasible": "core.errors",
    "NotInstalled": "core.errors",
    "NothingFeasible": "core.errors",
    "SearchkitError": "core.errors",
    "Interrupted": "core.interrupt",
    "Budget": "core.space",
    "Limits": "core.space",
    "Sharing": "core.space",
    "Space": "core.space",
    "Trial": "core.space",
    "Categorical": "core.training",
    "LogUniform": "core.training",
    "Training": "core.training",
    "TrainingSpace": "core.training",
    "Uniform": "core.training",
    "Sampler": "search.sampler",
    "StopSearch": "search.settings",
    "Distill": "stages.distill",
    "Export": "stages.export",
    "Promote": "stages.promote",
    "Prune": "stages.prune",
    "Quantize": "stages.quantize",
    "Recipe": "stages.recipe",
    "Metric": "tasks.own_metric",
}
"""Each public name, and the module that it is loaded from."""

__all__ = ["__version__", *sorted(_HOMES)]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the caller configures logging


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    # Kept, so that Python finds it the next time and does not call this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package: `searchkit.search` stays the function when the sub-package of that name is imported.

    The import system sets a sub-package as an attribute of its package. `from searchkit.search.x import y` reads
    `sys.modules` and needs no such attribute.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
