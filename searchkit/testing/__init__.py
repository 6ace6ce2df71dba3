"""Conformance suites for families and tasks."""
