"""Bad series in .ts files get one sentence each."""

from pathlib import Path
from typing import Any

import pytest
from bad_data import Case, Source, check_refused, registered_in

CASES: list[Any] = []
refused = registered_in(CASES)


# ── Series in .ts files ──────────────────────────────────────────────────────────────────────────────────────────────

TRUE = ("@univariate true", "@equalLength true", "@seriesLength 4", "@classLabel true a b")
TS_ROWS = [f"{k},{k % 3}.5,-{k},1e-3:{'ab'[k % 2]}" for k in range(24)]


def ts(folder: Path, says: tuple[str, ...] = TRUE, rows: list[str] = TS_ROWS, name: str = "X_TRAIN.ts") -> Source:
    (folder / name).write_text("\n".join(["# made up", *says, "@data", *rows]) + "\n", encoding="utf-8")
    return {"data": str(folder / name)}


@refused("Line 7 of .*X_TRAIN.ts' has 2 channels and the header says 1")
def ts_that_is_not_univariate(folder: Path) -> Source:
    return ts(folder, rows=["1,2,3,4:5,6,7,8:a", *TS_ROWS])


@refused("says @univariate true and @dimensions 3")
def ts_of_three_univariate_channels(folder: Path) -> Source:
    return ts(folder, ("@univariate true", "@dimensions 3", "@classLabel true a b"))


@refused("has 1 channels and the header says 3")
def ts_of_other_dimensions(folder: Path) -> Source:
    return ts(folder, ("@dimensions 3", "@classLabel true a b"))


@refused("Line 31 .* has 3 values a channel and @seriesLength says 4")
def ts_of_another_length(folder: Path) -> Source:
    return ts(folder, rows=[*TS_ROWS, "1,2,3:a"])


@refused("has 3 values a channel and @equalLength says true")
def ts_of_unequal_equal_lengths(folder: Path) -> Source:
    return ts(folder, ("@equalLength true", "@classLabel true a b"), rows=[*TS_ROWS, "1,2,3:a"])


@refused("of the class 'c', which @classLabel does not name", r"\(a b\)")
def ts_of_an_unnamed_class(folder: Path) -> Source:
    return ts(folder, rows=[*TS_ROWS, "1,2,3,4:c"])


@refused("names the class 'c', which no row has")
def ts_of_a_class_without_rows(folder: Path) -> Source:
    return ts(folder, (*TRUE[:3], "@classLabel true a b c"))


@refused("Line 7 .* holds a missing value", "fill it in")
def ts_with_a_missing_value(folder: Path) -> Source:
    return ts(folder, rows=["1,?,3,4:a", *TS_ROWS])


@refused("Line 7 .* holds 'x2'", "finite number")
def ts_with_a_word_for_a_value(folder: Path) -> Source:
    return ts(folder, rows=["1,x2,3,4:a", *TS_ROWS])


@refused("channels of 3 and of 4 values")
def ts_of_ragged_channels(folder: Path) -> Source:
    return ts(folder, ("@dimensions 2", "@classLabel true a b"), rows=["1,2,3,4:5,6,7:a"])


@refused("has 2 channels and line 6 has 1", "as many")
def ts_of_ragged_rows(folder: Path) -> Source:
    return ts(folder, ("@equalLength true", "@classLabel true a b", "@missing false"), ["1,2:a", "1,2:3,4:a", *TS_ROWS])


@refused("no line @data")
def ts_without_data(folder: Path) -> Source:
    (folder / "X.ts").write_text("@univariate true\n")
    return {"data": str(folder / "X.ts")}


@refused("no rows after @data")
def ts_without_rows(folder: Path) -> Source:
    return ts(folder, rows=[])


@refused("Line 2 .* is '1,2,3,4:a'", "before @data")
def ts_without_a_header(folder: Path) -> Source:
    (folder / "X.ts").write_text("# rows\n1,2,3,4:a\n")
    return {"data": str(folder / "X.ts")}


@refused("time stamps, which are not read")
def ts_with_time_stamps(folder: Path) -> Source:
    return ts(folder, ("@timeStamps true", *TRUE))


@refused("@univariate of .* is 'maybe'", "true or false")
def ts_of_a_flag_that_is_none(folder: Path) -> Source:
    return ts(folder, ("@univariate maybe", *TRUE[1:]))


@refused("@seriesLength", "is 'long'", "whole number")
def ts_of_a_length_that_is_none(folder: Path) -> Source:
    return ts(folder, ("@seriesLength long", "@classLabel true a b"))


@refused("says true and names no class")
def ts_of_no_named_class(folder: Path) -> Source:
    return ts(folder, ("@classLabel true",))


@refused("X_TEST.ts' has the classes a c and .*X_TRAIN.ts' has a b", "the same")
def ts_of_other_classes_in_test(folder: Path) -> Source:
    ts(folder, (*TRUE[:3], "@classLabel true a c"), ["1,2,3,4:a", "1,2,3,4:c"], "X_TEST.ts")
    return ts(folder)


@refused("X_TEST.ts' has 2 channels and .*X_TRAIN.ts' has 1", "the same")
def ts_of_other_channels_in_test(folder: Path) -> Source:
    ts(folder, ("@dimensions 2", TRUE[3]), ["1,2,3,4:1,2,3,4:a"], "X_TEST.ts")
    return ts(folder)


@refused("no text in UTF-8")
def ts_in_another_encoding(folder: Path) -> Source:
    (folder / "X.ts").write_bytes(b"# caf\xe9\n@data\n")
    return {"data": str(folder / "X.ts")}


@refused("--target 'y' is for tables")
def target_of_a_ts_file(folder: Path) -> Source:
    return ts(folder) | {"target": "y"}


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)
