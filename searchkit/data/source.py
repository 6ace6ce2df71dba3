"""Where the data of a task come from, as the user said it: the one parser of that plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON, thaw
from searchkit.data.problems import Reading, problems, reading_of, selectable

MODALITIES = ("tabular", "image", "series", "tokens", "voxels", "graph")
FEATURES = ("raw", "logmel")
TOKENS = ("words", "pairs", "characters")


@dataclass(frozen=True, slots=True)
class Source:
    """Either `task`, an embedded name, or `data`, a path. None of the others means: judge it from the data."""

    task: str | None = None
    data: str | None = None
    test_data: str | None = None  # a second table, or .ts file, that is the test split
    test_files: str | None = None  # in a folder, the names of the files that are the test split: "*_[0-4].wav"
    target: str | None = None  # column name, or index as text: "c14", "14", "-1"; of parallel files the language
    modality: str | None = None  # one of MODALITIES
    kind: str | None = None  # the name of a problem, see `searchkit.data.problems`
    anomaly: str | None = None  # the classes to hold out, with commas between; asks for that kind
    noise: str | None = None  # to take off again, such as gaussian:0.5; asks for that kind
    features: str | None = None  # what a network sees of a sound: raw samples, or logmel, a spectrogram
    steps: int | None = None  # the one length that every series is cut or padded to; None keeps lengths
    split_seed: int = 0
    encoding: str | None = None  # of text; None is UTF-8
    tokens: str | None = None  # of text, one of TOKENS; None: words for lines, else pairs by vocabulary, or characters
    vocabulary: int | None = None  # of text: tokens at most; None is 8,000 words, 2,000 pairs, 4,000 to translate
    window: int | None = None  # of a text or a series to be continued: tokens or steps that the network sees at once
    horizon: int | None = None  # of a series to be continued: steps that it answers at once
    split: str | None = None  # of a series: rows, or shares of them, of train, val and test, which follow one another
    time_column: str | None = None  # of a series: the column with the times; None finds it

    def __post_init__(self) -> None:
        if (self.task is None) == (self.data is None):
            found = "both" if self.task is not None else "neither"
            raise BadInput(
                f"The data come from a task or from a path, and {found} was given; give --task NAME or --data PATH."
            )
        known = (
            ("modality", self.modality, MODALITIES),
            ("kind", self.kind, selectable()),
            ("features", self.features, FEATURES),
            ("tokens", self.tokens, TOKENS),
        )
        for what, value, allowed in known:
            if value is not None and value not in allowed:
                raise BadInput(
                    f"No {what} named '{value}'; it is one of {', '.join(allowed)}, or left out to be judged from the "
                    "data."
                )
        for flag, asks_for in asked_by().items():
            if getattr(self, flag) is not None and self.kind != asks_for:
                raise BadInput(
                    f"--{flag} '{getattr(self, flag)}' is for --kind {asks_for}, not for {self.kind}; leave one of "
                    "them out."
                )
        unit = "steps" if self.reads == "series" else "tokens"
        for flag, number, least in (
            ("vocabulary", self.vocabulary, 2),
            ("window", self.window, 8),
            ("horizon", self.horizon, 1),
        ):
            if number is not None and number < least:
                raise BadInput(f"A {flag} of {number} {unit} is too small; give at least {least}.")
        for flag, only in fields_of_one_problem().items():
            if getattr(self, flag) is not None and self.data is not None and self.kind != only:
                raise BadInput(
                    f"--{flag.replace('_', '-')} {getattr(self, flag)} is for {problems()[only].suits}; add --kind "
                    f"{only}, or leave it out."
                )
        own = (
            ("--target", self.target, "target"),
            ("--test-data", self.test_data, "test split"),
            ("--test-files", self.test_files, "test split"),
            ("--steps", self.steps, "length"),
            ("--split", self.split, "splits"),
            ("--time-column", self.time_column, "times"),
        )
        given = [(flag, what) for flag, value, what in own if value is not None]
        if self.task is not None and given:
            its = " and ".join(dict.fromkeys(what for _, what in given))
            flags = " and ".join(flag for flag, _ in given)
            raise BadInput(f"The task '{self.task}' brings its own {its}; leave out {flags}.")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"--steps {self.steps} leaves nothing of a series; it is a whole number from 1 on.")

    def require_suits(self, kind: str | None, where: str) -> None:
        """Raises BadInput where a field was given that this kind has no use for. kind: None where it is not known."""
        for flag, one in fields_of_one_problem().items():
            if getattr(self, flag) is not None and kind != one:
                raise BadInput(
                    f"--{flag} {getattr(self, flag)} is for --kind {one}, and {where} is not for that; leave it out."
                )

    @property
    def reads(self) -> Reading:
        """How the data are to be read for the problem that was asked for."""
        return reading_of(self.kind)

    @property
    def labelled(self) -> bool:
        """Whether the problem that was asked for needs a target; True if it is left to be judged from the data."""
        return self.kind is None or problems()[self.kind].labelled

    @classmethod
    def parse(cls, plain: Mapping[str, JSON]) -> Source:
        """Raises BadInput on an unknown key or a value that is not allowed."""
        asked = [kind for flag, kind in asked_by().items() if plain.get(flag) is not None]
        return thaw(cls, {**({"kind": asked[0]} if asked else {}), **plain})


def asked_by() -> dict[str, str]:
    """Fields that ask for a problem without its name, and that problem."""
    return {field: name for name, info in problems().items() for field in info.asked_by}


def fields_of_one_problem() -> dict[str, str]:
    """The other fields that mean nothing to any other problem than one, and that problem."""
    return {field: name for name, info in problems().items() for field in info.fields if field not in info.asked_by}
