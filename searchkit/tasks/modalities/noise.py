"""The modality of a generator's input: random noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.serialization import derive_seed
from searchkit.data.dataset import Dataset, RawDataset


class AsItIs(nn.Module):
    """The identity: noise needs no preprocessing."""

    def forward(self, noise: Tensor) -> Tensor:
        """(B, Z) noise, unchanged."""
        return noise


@dataclass(frozen=True)
class Noise:
    """The modality of a generator's input: numbers from the unit Gaussian."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(default_factory=dict)
    corrupts: frozenset[str] = frozenset()
    form = "noise"

    def arrange(self, found: RawDataset) -> Arrays:
        """Refuse: noise is drawn, not read.

        Raises:
            BadInput: Always.
        """
        raise BadInput(f"Noise is made, not read; give pictures in {found.where} and ask for --problem generation.")

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """The raw input "noise", (Z,)."""
        return (TensorSpec("noise", data.inputs["noise"].shape[1:]),)

    def preprocessor(self, data: Dataset) -> nn.Module:
        """The identity."""
        return AsItIs()

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Refuse: noise is not reconstructed.

        Raises:
            BadInput: Always.
        """
        raise BadInput("Noise cannot be rebuilt; ask for --problem generation of pictures.")

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


MODALITIES = {"noise": Noise()}


def draw_noise(rows: Mapping[str, np.ndarray], n: int, size: int, *, seed: int) -> np.ndarray:
    """Draw noise, (n, size) float32.

    In each split the mean is exactly 0 and the deviation exactly 1, as in the distribution, so that a generator is not
    scored by the luck of a draw.
    """
    noise = np.zeros((n, size), dtype=np.float32)
    for split, chosen in rows.items():
        # A generator for each split, so that its noise does not depend on the size of another.
        drawn = np.random.default_rng(derive_seed("noise", split, seed)).standard_normal((len(chosen), size))
        noise[chosen] = (drawn - drawn.mean()) / drawn.std()
    return noise
