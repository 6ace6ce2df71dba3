"""All of a run's configuration: six sections, which are six tables of a TOML file and six panels of the help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from searchkit.config import sources
from searchkit.config.compression import CompressionConfig
from searchkit.config.data import DataConfig
from searchkit.config.limits import BudgetConfig, LimitsConfig, OutputConfig
from searchkit.config.options import Option, options
from searchkit.config.search import SearchConfig

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "search": SearchConfig,
    "budget": BudgetConfig,
    "limits": LimitsConfig,
    "compression": CompressionConfig,
    "output": OutputConfig,
}
"""Name of a section to its dataclass. The names of options are unique over all of them."""


@dataclass(frozen=True)
class RunConfig:
    """What a run is asked for, all of it."""

    data: DataConfig = field(default_factory=DataConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @classmethod
    def from_options(cls, *, file: Path | None = None, **given: Any) -> RunConfig:
        """Make a configuration from keyword arguments, as the Python API takes them.

        Args:
            file: a TOML file with the options that are not given.
            **given: options by name, as numbers or as text: max_size="100KB", time_budget="30m". None is not given.

        Returns:
            The configuration.

        Raises:
            BadInput: an option is unknown, has a wrong value, or does not go with another.
        """
        layers = [sources.keywords(given, SECTIONS)] + ([] if file is None else [sources.toml_file(file, SECTIONS)])
        return cls.of(sources.merge(layers))

    @classmethod
    def from_toml(cls, file: Path) -> RunConfig:
        """Make a configuration from a TOML file alone. Paths in it are relative to its folder.

        Raises:
            BadInput: the file cannot be read, or an option in it is unknown or has a wrong value.
        """
        return cls.of(sources.merge([sources.toml_file(file, SECTIONS)]))

    @classmethod
    def of(cls, values: Mapping[str, sources.Given]) -> RunConfig:
        """Make a configuration from values of known origin.

        Raises:
            BadInput: a value is wrong, or does not go with another.
        """
        made = {name: make_section(section, values) for name, section in SECTIONS.items()}
        return cls(**made)

    @property
    def minimized(self) -> str | None:
        """The cost to minimize beside the metric: params, size, macs or latency; None for the metric alone."""
        if self.search.minimize is not None:
            return None if self.search.minimize == "none" else self.search.minimize
        # who sets a limit has said what the network may cost: within it the best is wanted, not the cheapest
        return "params" if self.limits == LimitsConfig() else None


def make_section(section: type, values: Mapping[str, sources.Given]) -> Any:
    """One dataclass of the configuration, from those of the values that are its fields.

    Raises:
        BadInput: a value is wrong, or does not go with another.
    """
    own = {name: values[name] for name in (f.name for f in fields(section)) if name in values}
    with sources.named(values):
        return section(**{name: value.value for name, value in own.items()})


def every_option() -> list[tuple[str, Field[Any], Option]]:
    """Every option that users set: its section, its field, and what is known of it."""
    return [(name, *pair) for name, section in SECTIONS.items() for pair in options(section)]
