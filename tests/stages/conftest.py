"""Fixtures of the tests of the stages."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_line import context, iris

from searchkit.context import Context


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path, iris())
