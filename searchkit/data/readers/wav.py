"""Read a folder of wav files: 16-bit PCM, one channel, one sample rate, with the standard library's reader.

A class is a subfolder, or the part of a file's name before the first underscore (7_jackson_3.wav). Either layout may
stand inside train/, val/ and test/.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset
from searchkit.data.ragged import stacked
from searchkit.data.source import Source
from searchkit.data.splits import rows_named

SPLITS = ("train", "val", "test")


def is_wav_folder(folder: Path, others: tuple[str, ...]) -> bool:
    """Whether most files are wav files, counted against those whose names end in one of `others`."""
    endings = [file.suffix.lower() for file in folder.rglob("*") if not file.name.startswith(".")]
    return endings.count(".wav") > sum(endings.count(other) for other in others)


def read_wav_folder(folder: Path, source: Source) -> RawDataset:
    """Read all sounds as (1, samples) int16 with their sample rate.

    Raises:
        BadInput: A file is damaged, or rates, channels or sample widths differ.
    """
    tops = [entry for entry in _visible(folder) if entry.is_dir()]
    splits = [split for split in SPLITS if folder / split in tops]
    if "train" in splits and len(splits) == len(tops):
        parts = {split: _by_class(folder / split) for split in splits}
    else:
        parts = {"train": _by_class(folder)}
    labels = sorted({label for part in parts.values() for label, _ in part})
    files: list[Path] = []
    target: list[int] = []
    given: dict[str, np.ndarray] = {}
    for split, part in parts.items():
        if split != "train":
            given[split] = np.arange(len(files), len(files) + len(part))
        files += [file for _, file in part]
        target += [labels.index(label) for label, _ in part]
    if source.test_files is not None:
        if "test" in given:
            raise BadInput(
                f"'{folder}' has a folder test, and --test-files '{source.test_files}' was given too; leave one out."
            )
        # The pattern may fit files of the folder val, too: they stay in val, for no example is in two splits.
        given["test"] = np.setdiff1d(
            rows_named(files, source.test_files, f"'{folder}'"), given.get("val", np.empty(0, np.int64))
        )
    rate, rows = _read_all(files)
    x, lengths = stacked(rows, source.steps, f"'{folder}'")
    return RawDataset(
        name=folder.resolve().name,
        x=x,
        target=np.array(target, dtype=np.int64),
        where=f"'{folder}'",
        modality="series",
        lengths=lengths,
        given=given,
        labels=tuple(labels),
        rate=rate,
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _by_class(folder: Path) -> list[tuple[str, Path]]:
    """List (class, file) for every wav file, from subfolders or from the names."""
    entries = _visible(folder)
    subs = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if not entry.is_dir()]
    wavs = [file for file in loose if file.suffix.lower() == ".wav"]
    if subs and wavs:
        raise BadInput(
            f"'{wavs[0]}' lies beside the class folders; move it into the folder of its class or take it away."
        )
    if not subs:
        return [(_label_of(file), file) for file in _only_wavs(loose, folder)]
    return [(sub.name, file) for sub in subs for file in _only_wavs(_visible(sub), sub)]


def _only_wavs(entries: list[Path], folder: Path) -> list[Path]:
    for entry in entries:
        if entry.is_dir() or entry.suffix.lower() != ".wav":
            raise BadInput(f"'{entry}' is no wav file; a folder of sounds holds nothing else, so take it away.")
    if not entries:
        raise BadInput(f"The folder '{folder}' is empty; put wav files in it or take it away.")
    return entries


def _label_of(file: Path) -> str:
    label, underscore, _ = file.stem.partition("_")
    if not underscore or not label:
        raise BadInput(
            f"'{file}' does not say its class; name it CLASS_anything.wav, or put it into a subfolder named as its "
            "class."
        )
    return label


def _read_all(files: list[Path]) -> tuple[int, list[np.ndarray]]:
    """Read files: the sample rate in Hz, and (1, samples) int16 for each file."""
    found = [_read(file) for file in files]
    rate = found[0][0]
    for file, (other, _) in zip(files, found, strict=True):
        if other != rate:
            raise BadInput(
                f"'{file}' has {other} samples a second and '{files[0]}' has {rate}; all must have one rate, so "
                "resample them."
            )
    return rate, [samples for _, samples in found]


def _read(file: Path) -> tuple[int, np.ndarray]:
    try:
        with file.open("rb") as stream, wave.open(stream) as sound:
            channels, width, rate, n, *_ = sound.getparams()
            if channels != 1:
                kind = "stereo" if channels == 2 else f"of {channels} channels"
                raise BadInput(f"'{file}' is {kind}; sounds must have one channel, so mix it down.")
            if width != 2:
                raise BadInput(f"'{file}' has {8 * width}-bit samples; 16-bit can be read, so convert it.")
            blob = sound.readframes(n)
    except (wave.Error, EOFError, RuntimeError) as error:  # the last from chunks whose sizes do not fit the file
        reason = str(error) or "it ends too early"
        raise BadInput(f"'{file}' is not a complete 16-bit PCM wav file ({reason}); convert or copy it.") from error
    if n == 0:
        raise BadInput(f"'{file}' holds no samples; take it away or record it again.")
    # n is what the header promises; readframes returns as much as there is.
    if len(blob) < 2 * n:
        raise BadInput(f"'{file}' says that it has {n} samples and holds {len(blob) // 2}; copy it again.")
    if rate < 1:
        raise BadInput(f"'{file}' says that it has {rate} samples a second; record or convert it again.")
    return rate, np.frombuffer(blob, dtype="<i2").astype(np.int16)[None, :]
