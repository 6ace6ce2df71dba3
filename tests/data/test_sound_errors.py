"""Bad folders of sounds get one sentence each."""

import wave
from pathlib import Path
from typing import Any

import pytest
from bad_data import Case, Source, X, Y, archive, check_refused, registered_in

CASES: list[Any] = []
refused = registered_in(CASES)


# ── Sounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def wav(path: Path, *, channels: int = 1, width: int = 2, rate: int = 8000, n: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, n, "NONE", ""))
        file.writeframes(bytes(k % 251 for k in range(n * channels * width)))
    return path


def sounds(folder: Path, **source: Any) -> Source:
    for k in range(24):
        wav(folder / "wav" / f"{'ab'[k % 2]}_{k}.wav", n=300 + 10 * k)
    return {"data": str(folder / "wav"), **source}


@refused("a_7.wav' is stereo", "mix it down")
def stereo_wav(folder: Path) -> Source:
    wav(folder / "wav" / "a_7.wav", channels=2)
    return sounds(folder)


@refused("a_70.wav' has 24-bit samples", "16-bit")
def wav_of_24_bits(folder: Path) -> Source:
    wav(folder / "wav" / "a_70.wav", width=3)
    return sounds(folder)


@refused("a_70.wav' has 8-bit samples", "16-bit")
def wav_of_8_bits(folder: Path) -> Source:
    wav(folder / "wav" / "a_70.wav", width=1)
    return sounds(folder)


@refused("b_71.wav' holds no samples", "take it away")
def wav_without_samples(folder: Path) -> Source:
    source = sounds(folder)
    with wave.open(str(folder / "wav" / "b_71.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "ends too early")
def wav_of_no_bytes(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "b_71.wav").touch()
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "RIFF")
def text_called_wav(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "b_71.wav").write_text("this is no sound at all")
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "unknown format: 3")
def wav_of_floats(folder: Path) -> Source:
    source = sounds(folder)
    blob = bytearray(wav(folder / "wav" / "b_71.wav").read_bytes())
    blob[20] = 3
    (folder / "wav" / "b_71.wav").write_bytes(blob)
    return source


@refused("b_71.wav' says that it has 400 samples and holds 350")
def wav_cut_short(folder: Path) -> Source:
    source = sounds(folder)
    path = wav(folder / "wav" / "b_71.wav")
    path.write_bytes(path.read_bytes()[:-100])
    return source


@refused("b_71.wav' has 16000 samples a second and .*a_0.wav' has 8000", "resample")
def wavs_of_mixed_rates(folder: Path) -> Source:
    wav(folder / "wav" / "b_71.wav", rate=16000)
    return sounds(folder)


@refused("hello.wav' does not say its class", "CLASS_anything.wav")
def wav_without_a_class(folder: Path) -> Source:
    wav(folder / "wav" / "hello.wav")
    return sounds(folder)


@refused("notes.txt' is no wav file")
def text_among_sounds(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "notes.txt").write_text("hello")
    return source


@refused("a_0.wav' lies beside the class folders")
def wav_beside_the_classes(folder: Path) -> Source:
    wav(folder / "wav" / "c" / "1.wav")
    return sounds(folder)


@refused("folder .*c' is empty")
def empty_folder_of_sounds(folder: Path) -> Source:
    source = {"data": str(folder)}
    for k in range(24):
        wav(folder / "ab"[k % 2] / f"{k}.wav")
    (folder / "c").mkdir()
    return source


@refused(r"--test-files '\*_99.wav' fits 0 of the 24 files", "some and not all")
def names_of_test_that_are_not_there(folder: Path) -> Source:
    return sounds(folder, test_files="*_99.wav")


@refused("folder test, and --test-files", "leave one out")
def names_of_test_beside_a_test_folder(folder: Path) -> Source:
    for k in range(24):
        wav(folder / ("test" if k > 20 else "train") / f"{'ab'[k % 2]}_{k}.wav")
    return {"data": str(folder), "test_files": "*_1.wav"}


@refused("differ in length", "at most 530 samples", "--steps N")
def spectrogram_pictures_of_unequal_sounds(folder: Path) -> Source:
    return sounds(folder, features="logmel", modality="image")


@refused("holds sounds", "--modality image", "--features logmel")
def pictures_of_raw_samples(folder: Path) -> Source:
    return sounds(folder, modality="image")


@refused("--features logmel is for sounds", "no sounds", "leave it out")
def spectrogram_of_a_table(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"features": "logmel"}


@refused("--features 'mfcc' is unknown", "raw or logmel")
def unknown_features(folder: Path) -> Source:
    return sounds(folder, features="mfcc")


@refused("--steps 0 is out of range", "at least 1")
def no_steps(folder: Path) -> Source:
    return sounds(folder, steps=0)


@refused("--steps '50' is for wav and .ts files", "leave it out")
def steps_of_an_archive(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"steps": 50}


@refused("task 'tones' brings its own length; leave out --steps\\.")
def steps_of_a_task(folder: Path) -> Source:
    return {"task": "tones", "steps": 50}


@refused("task 'tones' brings its own target and test split; leave out --target and --test-files\\.")
def target_and_test_files_of_a_task(folder: Path) -> Source:
    return {"task": "tones", "target": "pitch", "test_files": "*_0.wav"}


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)
