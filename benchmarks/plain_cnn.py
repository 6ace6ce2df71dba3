"""The family cnn with a training that a plain loop has too, for benchmarks/trials_per_hour.py."""

from dataclasses import replace

from searchkit.core.training import LogUniform, Training, TrainingSpace
from spaces import cnn

SPACE = replace(
    cnn.SPACE,
    name="plain_cnn",
    training=TrainingSpace(Training(warmup=0.0, clip_norm=0.0, batch_size=64), {"lr": LogUniform(1e-3, 1e-2)}),
)
