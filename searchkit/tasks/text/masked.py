"""Classification of tokens with masked pre-training: tokens are hidden and predicted from those around them.

Devlin et al. 2019, arXiv:1810.04805 (BERT), section 3.1: 15 % of the tokens are to be predicted; of these 80 % are
hidden, 10 % are replaced by another token and 10 % stay. The mask is token 0, which also stands for an unknown token:
so a trained network meets no token that it has never seen.
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
    """A task over tokens that can be pre-trained on its inputs alone; see `SelfSupervised`."""

    def pretext(self, restorer: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the tokens to be predicted; unknown tokens and padding are left out."""
        tokens_BL, *lengths = batch.inputs
        # Drawn from torch's global generator, which the training loop seeds for each epoch.
        chance, how = torch.rand((2, *tokens_BL.shape), device=tokens_BL.device)
        # Token 0 stands for every unknown token.
        told_BL = (chance < TOLD) & (tokens_BL != 0)
        if lengths:
            # The readers pad with 0 too, but an array of a user's own holds any token after the end of a row.
            told_BL &= torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < lengths[0][:, None]
        others_BL = torch.randint(self.spec.vocabulary, tokens_BL.shape, device=tokens_BL.device)
        seen_BL = tokens_BL.masked_fill(told_BL & (how < HIDDEN), 0)
        seen_BL = torch.where(told_BL & (how >= 1 - REPLACED), others_BL, seen_BL)
        logits = restorer(told_BL, seen_BL, *lengths)
        # summed by hand: of no tokens the mean is no number
        return F.cross_entropy(logits.float(), tokens_BL[told_BL], reduction="sum") / max(1, len(logits))

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """The task as plain data; see `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "masked"}, arrays


TASKS = {"tokens": MaskedTask}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> MaskedTask:
    """The inverse of `MaskedTask.pack`."""
    return MaskedTask(Dataset.unpack(config, arrays))
