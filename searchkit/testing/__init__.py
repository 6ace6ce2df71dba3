"""The conformance suites that families and tasks must pass."""
