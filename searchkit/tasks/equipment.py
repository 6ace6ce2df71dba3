"""What a bundle has beside its model, or in place of its run.py: scripts of this folder, and the tokenizer as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from .data import Data

FOLDER = Path(__file__).parent


def script(name: str) -> str:
    """One that is written for bundles alone."""
    return (FOLDER / "bundle" / name).read_text(encoding="utf-8")


def for_text(data: Data, run: str, *beside: str) -> dict[str, str]:
    """See `types.Equipped`: the tokenizer, the lines that apply it, a run.py that takes text, and the modules of this
    folder that it imports."""
    modules = {name: (FOLDER / name).read_text(encoding="utf-8") for name in ("tokenizer.py", *beside)}
    return {
        "tokenizer.json": json.dumps(data.tokenizer, ensure_ascii=False) + "\n",
        "run.py": script(run),
        **modules,
    }
