"""Tokens that are classified, and first, where a training asks for it, hidden and guessed from those around them.

Devlin et al. 2019, arXiv:1810.04805 (BERT), section 3.1: 15 % of the tokens are to be told, of which 80 % are hidden,
10 % are replaced by another one and 10 % stand as they are. What hides a token is number 0, which stands for an
unknown one: there is no token that a trained network never meets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays
from searchkit.core.serialization import JSON
from searchkit.core.training import Batch
from searchkit.data.dataset import Dataset
from searchkit.tasks.arrays import ArrayTask

TOLD, HIDDEN, REPLACED = 0.15, 0.8, 0.1


class MaskedTask(ArrayTask):
    """An ArrayTask over tokens, whose inputs alone teach something (see `SelfSupervised`)."""

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        """Nats a token that is to be told. An unknown token, and padding, has nothing to tell."""
        tokens_BL, *lengths = batch.inputs
        chance, how = torch.rand((2, *tokens_BL.shape), device=tokens_BL.device)
        told_BL = (chance < TOLD) & (tokens_BL != 0)
        others_BL = torch.randint(self.spec.vocabulary, tokens_BL.shape, device=tokens_BL.device)
        seen_BL = tokens_BL.masked_fill(told_BL & (how < HIDDEN), 0)
        seen_BL = torch.where(told_BL & (how >= 1 - REPLACED), others_BL, seen_BL)
        logits = restorer(told_BL, seen_BL, *lengths)
        # summed by hand: of no tokens the mean is no number
        return F.cross_entropy(logits.float(), tokens_BL[told_BL], reduction="sum") / max(1, len(logits))

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        words, arrays = super().pack()
        return {**words, "module": "masked"}, arrays


TASKS = {"tokens": MaskedTask}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> MaskedTask:
    return MaskedTask(Dataset.unpack(config, arrays))
