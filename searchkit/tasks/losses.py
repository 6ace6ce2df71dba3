"""Losses that several problems share: label smoothing, and the divergence that a student learns from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_one_hot(target: Tensor, n_classes: int, smoothing: float) -> Tensor:
    """Spread class indices, (…,) int64, over all classes by the share `smoothing`.

    Szegedy et al. 2016, arXiv:1512.00567, section 7.

    Returns:
        (…, n_classes) float32, each row of sum 1.
    """
    return F.one_hot(target, n_classes).float() * (1 - smoothing) + smoothing / n_classes


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of a student from its teacher, the mean over the rows, times temperature².

    The factor keeps the gradients of one size whatever the temperature (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        student: (n, n_classes) log-probabilities, of logits that were divided by the temperature.
        teacher: The same of the teacher.
        temperature: By which they were divided.
    """
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
