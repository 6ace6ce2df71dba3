"""searchkit finds a small, accurate network for a data set and a device, makes it smaller, and proves it."""

__version__ = "0.1.0"
