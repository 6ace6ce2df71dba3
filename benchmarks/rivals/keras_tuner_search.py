"""A rival: KerasTuner's Hyperband on torch, as its guide shows it.

    KERAS_BACKEND=torch python benchmarks/rivals/keras_tuner_search.py DATA --seconds 600 --seed 0 --most-params 95000

In an environment of its own (`pip install keras keras-tuner six torch`). Networks above the limit on parameters are
refused by the tuner (`max_model_size`). The tuner searches for 55 % of the time; its best hyperparameters are trained
with the rest. The accuracy is that of the network in fp32 on all test pictures.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import keras_tuner
import numpy as np
import torch
from pictures import load, options, tell

EPOCHS, TRIALS_SHARE, BATCH = 10, 0.55, 128


class Ends(keras.callbacks.Callback):
    """Stops a training at a moment of the monotonic clock."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() > self.at:
            self.model.stop_training = True


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--most-params", type=int, default=95_000)
    given = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(given.threads)
    keras.utils.set_random_seed(given.seed)
    x_train, y_train, x_test, y_test = load(given.data)
    x_train, x_test = (x.astype(np.float32) / 255 for x in (x_train, x_test))
    n_val, n_classes, shape = len(x_train) // 10, int(y_train.max()) + 1, x_train.shape[1:]
    trained = 0

    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        nonlocal trained
        inputs = x = keras.Input(shape)
        if shape[-1] == 3:
            x = keras.layers.RandomFlip("horizontal")(x)
        x = keras.layers.RandomTranslation(0.1, 0.1)(x)
        width, kernel = hp.Int("width", 8, 48, step=8), hp.Choice("kernel", [3, 5])
        for stage in range(hp.Int("stages", 2, 4)):
            for _ in range(hp.Int(f"blocks_{stage}", 1, 2)):
                x = keras.layers.Conv2D(int(width * hp.Float("growth", 1.0, 2.0) ** stage), kernel, padding="same")(x)
                x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
            x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Dropout(hp.Float("dropout", 0.0, 0.3))(keras.layers.GlobalAveragePooling2D()(x))
        model = keras.Model(inputs, keras.layers.Dense(n_classes)(x))
        model.compile(
            keras.optimizers.AdamW(hp.Float("lr", 1e-3, 1e-2, sampling="log")),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
        )  # fmt: skip
        trained += 1
        return model

    folder = tempfile.mkdtemp()
    tuner = keras_tuner.Hyperband(
        build, "val_accuracy", max_epochs=EPOCHS, seed=given.seed, directory=folder, project_name="r",
        max_model_size=given.most_params, overwrite=True,
    )  # fmt: skip
    search_ends, ends = began + TRIALS_SHARE * given.seconds, began + given.seconds - 10.0
    val = (x_train[:n_val], y_train[:n_val])

    class InTime(keras.callbacks.Callback):
        """Ends the search: KerasTuner itself has no limit on the time."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if time.monotonic() > search_ends:
                raise TimeoutError

    try:
        tuner.search(
            x_train[n_val:], y_train[n_val:], validation_data=val, batch_size=BATCH, verbose=0, callbacks=[InTime()]
        )
    except (TimeoutError, keras_tuner.errors.FatalError, RuntimeError):
        pass
    found = tuner.get_best_hyperparameters(1)
    best = build(found[0] if found else keras_tuner.HyperParameters())
    best.fit(x_train[n_val:], y_train[n_val:], epochs=1000, batch_size=BATCH, verbose=0, callbacks=[Ends(ends)])
    right = int((best.predict(x_test, batch_size=500, verbose=0).argmax(1) == y_test).sum())
    tell(right, len(y_test), params=best.count_params(), trained=trained, began=began,
         what=f"{len(tuner.oracle.trials)} trials asked")  # fmt: skip


if __name__ == "__main__":
    main()
