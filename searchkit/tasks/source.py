"""Where the data of a task come from, as the user said it: the one parser of that plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from searchkit.types import JSON, BadInput, thaw

MODALITIES = ("tabular", "image", "series", "tokens", "voxels", "graph")
FEATURES = ("raw", "logmel")
WRITTEN = ("translation", "transcription")
"""The kinds whose answers are texts of their own."""
KINDS = ("classification", "multilabel", "regression", "reconstruction", "language", *WRITTEN, "generation")


@dataclass(frozen=True, slots=True)
class Source:
    """Either `task`, an embedded name, or `data`, a path. None of the others means: judge it from the data."""

    task: str | None = None
    data: str | None = None
    test_data: str | None = None  # a second table, or .ts file, that is the test split
    test_files: str | None = None  # in a folder, the names of the files that are the test split: "*_[0-4].wav"
    target: str | None = None  # column name, or index as text: "c14", "14", "-1"; of parallel files the language
    modality: str | None = None  # one of MODALITIES
    kind: str | None = None  # one of KINDS
    features: str | None = None  # what a network sees of a sound: raw samples, or logmel, a spectrogram
    steps: int | None = None  # the one length that every series is cut or padded to; None keeps lengths
    split_seed: int = 0
    encoding: str | None = None  # of text; None is UTF-8
    vocabulary: int | None = None  # of text: byte pairs; None is characters, or 2,000 for lines, 4,000 to translate
    window: int | None = None  # of a text to be continued: tokens that the network sees at once

    def __post_init__(self) -> None:
        if (self.task is None) == (self.data is None):
            given = "both" if self.task is not None else "neither"
            raise BadInput(
                f"The data come from a task or from a path, and {given} was given; give --task NAME or --data PATH."
            )
        known = (
            ("modality", self.modality, MODALITIES),
            ("kind", self.kind, KINDS),
            ("features", self.features, FEATURES),
        )
        for what, value, allowed in known:
            if value is not None and value not in allowed:
                raise BadInput(
                    f"No {what} named '{value}'; it is one of {', '.join(allowed)}, or left out to be judged from the "
                    "data."
                )
        for flag, number, least in (("vocabulary", self.vocabulary, 2), ("window", self.window, 8)):
            if number is not None and number < least:
                raise BadInput(f"A {flag} of {number} tokens is too small; give at least {least}.")
        own = (self.target, self.test_data, self.test_files, self.steps)
        if self.task is not None and any(value is not None for value in own):
            raise BadInput(
                f"The task '{self.task}' brings its own target and test split; leave out --target and --test-data."
                if self.target is not None or self.test_data is not None
                else f"The task '{self.task}' brings its own test split and length; leave out --test-files and --steps."
            )
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"--steps {self.steps} leaves nothing of a series; it is a whole number from 1 on.")

    @classmethod
    def parse(cls, plain: Mapping[str, JSON]) -> Source:
        """Raises BadInput on an unknown key or a value that is not allowed."""
        return thaw(cls, dict(plain))
