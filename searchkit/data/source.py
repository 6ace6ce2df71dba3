"""Where the data of a task come from, as the user said it; see `searchkit.config.data`, which declares it."""

from searchkit.config.data import DataConfig as Source

__all__ = ["Source"]
