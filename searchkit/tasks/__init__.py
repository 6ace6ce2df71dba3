"""Tasks: data with its loss, metric and splits. See `searchkit.tasks.registry`."""
