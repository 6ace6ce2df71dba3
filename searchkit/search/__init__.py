"""Search: one coordinator, a study, rungs as jobs, and executors that train them. Imports no torch."""
