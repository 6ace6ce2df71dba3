"""Where the data of a run come from, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from searchkit.config import naming
from searchkit.config.options import option, settle
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON, thaw
from searchkit.data import problems
from searchkit.data.problems import Reading

MODALITIES = ("tabular", "image", "series", "tokens", "voxels", "graph")
FEATURES = ("raw", "logmel")
TOKENS = ("words", "pairs", "characters")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """The data: an embedded task or files, and how to read them. None means: decide by the data.

    Raises:
        BadInput: a value is not allowed, or two of them do not go together.
    """

    data: str | None = option(
        None,
        "Path of the data: a CSV, Parquet, .npz, .ts or text file, or a folder of idx, image or .wav files.",
        kind="path",
        usual="the family's embedded task",
        example="adult.csv",
    )
    task: str | None = option(
        None,
        "Name of an embedded data set to use instead of files; `searchkit tasks` lists them.",
        usual="the family's own",
        example="digits",
    )
    target: str | None = option(
        None,
        "Column to predict, by name or number; for a forecast the channels, for parallel texts the target language.",
        usual="the array y of an .npz file",
        example="income",
    )
    problem: str | None = option(
        None,
        "Problem to solve, such as classification, regression or forecasting.",
        choices=problems.selectable,  # not called here: it reads the files of all problems
        usual="judged from the target",
        example="regression",
        renamed=problems.renamed,
    )
    test_data: str | None = option(
        None,
        "Path of a second file with the test split; for graphs, of a file with the numbers of the test graphs.",
        kind="path",
        usual="a split of the data",
        example="test.csv",
    )
    test_files: str | None = option(
        None,
        "Pattern of the file names that form the test split in a folder of .wav files.",
        usual="a split of the data",
        example="'*_[0-4].wav'",
    )
    modality: str | None = option(
        None, "Form of the input.", choices=MODALITIES, usual="judged from the shape", example="image"
    )
    noise: str | None = option(
        None,
        "Noise to add for the denoising problem: gaussian or mask, a colon and the level.",
        usual="none",
        example="gaussian:0.5",
    )
    anomaly: str | None = option(
        None,
        "Classes to hold out and detect as anomalies, with commas between.",
        usual="none",
        example="crack,stain",
    )
    encoding: str | None = option(None, "Encoding of text files.", usual="utf-8", example="latin-1")
    tokens: str | None = option(
        None,
        "Unit that text is split into; pairs are byte pairs.",
        choices=TOKENS,
        usual="characters; words for one text a line",
        example="words",
    )
    vocabulary: int | None = option(
        None,
        "Maximum number of tokens in the vocabulary.",
        kind="whole",
        low=2,
        usual="8000 words, 2000 byte pairs, 4000 for translation",
        example="1000",
    )
    window: int | None = option(
        None,
        "Number of tokens or time steps that the network sees at once.",
        kind="whole",
        low=8,
        usual="64 tokens or 96 steps",
        example="336",
    )
    horizon: int | None = option(
        None, "Number of time steps to forecast.", kind="whole", low=1, usual="24", example="96"
    )
    split: str | None = option(
        None,
        "Sizes of the train, val and test splits of a series in order of time, as shares or rows.",
        usual="the last 20 % for test, 15 % of the rest for val",
        example="0.6,0.2,0.2",
    )
    split_seed: int = option(0, "Seed of the random split into train, val and test.", kind="whole", low=0, example="1")
    time_column: str | None = option(
        None, "Timestamp column of a time series.", usual="detected by its values", example="date"
    )
    features: str | None = option(
        None,
        "Features of sounds: raw samples, or logmel spectrograms that the exported graph computes.",
        choices=FEATURES,
        usual="raw",
        example="logmel",
    )
    steps: int | None = option(
        None,
        "Length in samples to which every series of .wav and .ts files is cut or padded.",
        kind="whole",
        low=1,
        usual="lengths stay as they are",
        example="8000",
    )

    def __post_init__(self) -> None:
        settle(self)
        if self.task is not None and self.data is not None:
            task, data = naming.given("task", self.task), naming.given("data", self.data)
            raise BadInput(f"{task} and {data} exclude one another; give the embedded task or the path, not both.")
        self._require_problem()
        self._require_no_task_of_its_own()

    def _require_problem(self) -> None:
        """Raises BadInput if an option belongs to another problem than the one that is asked for."""
        for name, asked in problems.asked_by().items():
            value, implied = getattr(self, name), problems.shown(asked)
            if value is not None and self.problem is None:
                object.__setattr__(self, "problem", implied)  # frozen, and still being made
            elif value is not None and self.problem != implied:
                raise BadInput(
                    f"{naming.given(name, value)} is for {naming.advice('problem', implied)}, not for {self.problem}; "
                    "leave one of them out."
                )
        # After the loop above, which may have set the problem: `kind` is made from it.
        for name, only in problems.fields_of_one_problem().items():
            value = getattr(self, name)
            if value is not None and self.data is not None and self.kind != only:
                suits = problems.problems()[only].suits
                raise BadInput(
                    f"{naming.given(name, value)} is for {suits or only}; add "
                    f"{naming.advice('problem', problems.shown(only))}, or leave it out."
                )

    def _require_no_task_of_its_own(self) -> None:
        """Raises BadInput if an option of files stands beside an embedded task."""
        own = {
            "target": "target",
            "test_data": "test split",
            "test_files": "test split",
            "steps": "length",
            "split": "splits",
            "time_column": "times",
        }
        given = [name for name in own if getattr(self, name) is not None]
        if self.task is not None and given:
            its = " and ".join(dict.fromkeys(own[name] for name in given))
            out = " and ".join(naming.mention(name) for name in given)
            raise BadInput(f"The task '{self.task}' brings its own {its}; leave out {out}.")

    def require_suits(self, kind: str | None, where: str) -> None:
        """Check the options that one problem alone has against the problem of the data.

        Args:
            kind: the stored name of the problem; None if it is not known.
            where: the words that name the data.

        Raises:
            BadInput: an option was given that this problem has no use for.
        """
        for name, only in problems.fields_of_one_problem().items():
            value = getattr(self, name)
            if value is not None and kind != only:
                raise BadInput(
                    f"{naming.given(name, value)} is for {naming.advice('problem', problems.shown(only))}, and "
                    f"{where} is not for that; leave it out."
                )

    @property
    def kind(self) -> str | None:
        """The problem by the name that runs and packed tasks hold."""
        return None if self.problem is None else problems.stored(self.problem)

    @property
    def reads(self) -> Reading:
        """How the data are to be read for the problem that was asked for."""
        return problems.reading_of(self.kind)

    @property
    def labeled(self) -> bool:
        """Whether the problem that was asked for needs a target; True if it is left to be judged from the data."""
        return self.kind is None or problems.problems()[self.kind].labeled

    @classmethod
    def parse(cls, plain: Mapping[str, JSON]) -> DataConfig:
        """Make the configuration of data that are to be loaded now, from plain JSON.

        Args:
            plain: the fields, or those of a run of the last release, which calls the problem "kind".

        Raises:
            BadInput: a key is unknown, a value is not allowed, or neither a task nor a path is given.
        """
        renamed = {"problem" if key == "kind" else key: value for key, value in plain.items()}
        found = thaw(cls, renamed)
        if found.task is None and found.data is None:
            raise BadInput(
                "The data come from a task or from a path, and neither was given; give --task NAME or --data PATH."
            )
        return found

    def plain(self) -> dict[str, JSON]:
        """The fields that differ from their defaults, as JSON."""
        blank = {name: getattr(DataConfig(), name) for name in self.__dataclass_fields__}
        return {name: getattr(self, name) for name in blank if getattr(self, name) != blank[name]}
