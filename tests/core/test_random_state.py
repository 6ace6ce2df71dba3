"""Random numbers of a block's own leave the caller's as they were, on every device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from searchkit.core.random_state import seeded


def test_a_block_draws_by_its_seed_and_the_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed seeds the generators of GPUs too, at once or, before they are in use, when they first are."""
    others: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", others.append)
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    others.clear()
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), seeded(7):
        assert torch.equal(torch.rand(3), drawn)
        raise RuntimeError
    assert torch.equal(torch.random.get_rng_state(), before) and others == []


def test_no_other_module_puts_back_half_of_what_it_seeded() -> None:
    root = Path(__file__).parents[2] / "searchkit"
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    # nn/dependencies.py seeds nothing: it runs networks, and puts back what they draw.
    assert [name for name, text in texts.items() if "fork_rng(" in text] == [
        "core/random_state.py", "nn/dependencies.py",
    ]  # fmt: skip
    assert "manual_seed" not in texts["nn/dependencies.py"]
