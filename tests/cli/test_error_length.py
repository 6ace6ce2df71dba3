"""Errors are one sentence of at most 250 characters, whatever was given: long names, long values, corrupt files."""

from __future__ import annotations

import gzip
import io
import random
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchkit.core.data_spec import MOST_CHARACTERS, brief, within_bounds
from searchkit.core.errors import BadInput, GateFailed
from searchkit.tasks import registry

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
SEEDS = range(12)


def npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=X, y=Y, **{f"column {i:04}": X for i in range(60)})
    return folder / "a.npz"


def packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", x=X, y=Y)
    return folder / "a.npz"


def table(folder: Path) -> Path:
    rows = [",".join(map(str, row)) + f",{'ab'[k % 2]}" for k, row in enumerate(X.tolist())]
    (folder / "t.csv").write_text("\n".join(["a,b,c,d,e,f,y", *rows]) + "\n")
    return folder / "t.csv"


def series(folder: Path) -> Path:
    head = ("@problemName x", "@timeStamps false", "@univariate true", "@equalLength true", "@classLabel true a b")
    rows = [",".join(map(str, row)) + f":{'ab'[k % 2]}" for k, row in enumerate(X.tolist())]
    (folder / "x.ts").write_text("\n".join([*head, "@data", *rows]) + "\n")
    return folder / "x.ts"


def images(folder: Path) -> Path:
    for label in "ab":
        (folder / label).mkdir()
        for k in range(12):
            stored = io.BytesIO()
            Image.fromarray(RNG.integers(0, 255, (8, 8), dtype=np.uint8)).save(stored, "png")
            (folder / label / f"{k}.png").write_bytes(stored.getvalue())
    return folder / "a" / "3.png"


def sounds(folder: Path) -> Path:
    for label in "ab":
        (folder / label).mkdir()
        for k in range(12):
            with wave.open(str(folder / label / f"{k}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(RNG.integers(-99, 99, 200, dtype=np.int16).tobytes())
    return folder / "a" / "3.wav"


def idx(folder: Path) -> Path:
    for part, n in (("train", 60), ("t10k", 20)):
        picture = struct.pack(">IIII", 0x803, n, 8, 8) + RNG.bytes(64 * n)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(picture, mtime=0))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, n) + bytes(k % 3 for k in range(n))
        )
    return folder / "train-images-idx3-ubyte.gz"


def text(folder: Path) -> Path:
    (folder / "t.txt").write_text("".join(f"{'ab'[k % 2]} word{k % 7} other{k % 5}\n" for k in range(60)))
    return folder / "t.txt"


FORMATS = {
    "npz": npz, "packed npz": packed_npz, "csv": table, "ts": series, "images": images, "sounds": sounds, "idx": idx,
    "text": text,
}  # fmt: skip


def harmed(content: bytes, seed: int) -> bytes:
    """Cut short, bytes changed, a part doubled, or a long run of one byte in it."""
    rng, data = random.Random(seed), bytearray(content)
    at = rng.randrange(len(data))
    match seed % 4:
        case 0:
            return bytes(data[:at])
        case 1:
            for _ in range(rng.randrange(1, 40)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            data[at:at] = data[at:]
        case 3:
            data[at:at] = bytes([rng.choice(b"x9,\n\x00\xff")]) * 5000
    return bytes(data)


def require_one_sentence(sentence: str) -> None:
    assert len(sentence) <= MOST_CHARACTERS and "\n" not in sentence, sentence
    assert sentence.endswith((".", "?")) and "Traceback" not in sentence, sentence


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_corrupt_file_is_read_or_is_one_short_sentence(name: str, seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make: Callable[[Path], Path] = FORMATS[name]
    file = make(folder)
    file.write_bytes(harmed(file.read_bytes(), seed))
    whole = folder if name in ("images", "sounds", "idx") else file
    source = {"data": str(whole), **({"target": "y"} if name == "csv" else {})}
    try:
        registry.load(source)
    except BadInput as refused:
        require_one_sentence(str(refused))


def test_a_header_of_six_thousand_characters_is_not_quoted_whole(tmp_path: Path) -> None:
    """What numpy says of a header that it cannot read holds the header, which here is all of the file."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9," * 3100 + b")"
    stored = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", stored)
        archive.writestr("y.npy", stored)
    with pytest.raises(BadInput) as refused:
        registry.load({"data": str(tmp_path / "a.npz")})
    require_one_sentence(str(refused.value))
    assert "a.npz" in str(refused.value)


@pytest.mark.parametrize(
    "source",
    [
        {"task": "x" * 5000},
        {"data": "/nowhere/" + "y" * 5000 + ".npz"},
        {"data": "/nowhere/" + "deep/" * 900 + "a.csv", "target": "t"},
        {"task": "digits", "kind": "k " * 3000},
        {"task": "digits-anomaly", "anomaly": "1" * 4000},
    ],
    ids=["task", "name", "path", "kind", "label"],
)
def test_a_long_value_is_shortened(source: dict[str, str]) -> None:
    with pytest.raises(BadInput) as refused:
        registry.load(source)
    require_one_sentence(str(refused.value))


def test_what_is_quoted_is_shortened_before_the_sentence_is() -> None:
    said = within_bounds(f"The file '{'deep/' * 90}a.npz' cannot be read ({'header ' * 900}); give another one.")
    assert said.startswith("The file 'deep/deep/") and "/a.npz' cannot be read (header header" in said
    assert said.endswith("); give another one.") and len(said) <= MOST_CHARACTERS
    short = "No space named 'cn'; the spaces are cnn, cnn1d, mlp."
    assert within_bounds(short) == short
    both = "The winner's file 'a' and the teacher's " + "word " * 80 + "'b' differ; give others."
    assert within_bounds(both).startswith("The winner's file 'a' and") and within_bounds(both).endswith("give others.")
    assert str(GateFailed("one\n two   three")) == "one two three" and len(str(GateFailed("w " * 999))) <= 250
    assert brief("a" * 100, 11) == "aaaaaa…aaaa" and brief(ValueError()) == "ValueError"
