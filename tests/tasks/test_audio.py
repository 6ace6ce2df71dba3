"""Sounds: wav folders, and the log-mel spectrogram as numpy computes it, alone and inside the exported graph."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.onnx import int8
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.onnx.random_inputs import draw_inputs
from searchkit.onnx.weight_only import weight_only
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.modalities.audio import FLOOR, LogMel, mel_bands
from searchkit.testing.tasks import TASK_CHECKS

random = np.random.default_rng(0)
LENGTHS = (300, 1200, 777, 1500)
VARIANTS = {
    "raw": {"features": "raw"},
    "spectrogram": {"features": "logmel"},
    "picture": {"features": "logmel", "modality": "image"},
}


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def sounds(folder: Path, n: int = 20, *, by_folder: bool = False) -> str:
    """Two classes by loudness, of different lengths, numbered: yes_0.wav, or yes/0.wav."""
    for label, loud in (("no", 500), ("yes", 9000)):
        for k in range(n):
            name = f"{label}/{k}.wav" if by_folder else f"{label}_{k}.wav"
            write_wav(folder / name, random.normal(size=LENGTHS[k % 4]) * loud / 4)
    return str(folder)


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_folder_of_sounds(tmp_path: Path, by_folder: bool) -> None:
    task = registry.load({"data": sounds(tmp_path, by_folder=by_folder)})
    assert task.labels == ("no", "yes") and task.spec.modality == "series" and task.spec.varies_in_length
    assert task.inputs[0].shape == (1, 1500) and task.inputs[0].dtype == "int16" and task.data.rate == 8000
    assert sorted(set(task.data.inputs["lengths"].tolist())) == sorted(LENGTHS)
    assert np.bincount(task.data.target).tolist() == [20, 20]


def test_the_samples_are_those_of_the_file(tmp_path: Path) -> None:
    sounds(tmp_path)
    written = random.integers(-32768, 32768, 900)
    write_wav(tmp_path / "yes_99.wav", written)
    data = registry.load({"data": str(tmp_path)}).data
    row = sorted(path.name for path in tmp_path.iterdir()).index("yes_99.wav")
    assert np.array_equal(data.inputs["series"][row, 0, :900], written) and data.inputs["lengths"][row] == 900
    assert not data.inputs["series"][row, 0, 900:].any()


def test_test_files_are_chosen_by_name(tmp_path: Path) -> None:
    task = registry.load({"data": sounds(tmp_path), "test_files": "*_[0-4].wav"})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert {names[row] for row in task.data.rows["test"]} == {f"{y}_{k}.wav" for y in ("no", "yes") for k in range(5)}


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    sounds(tmp_path / "train", 12)
    sounds(tmp_path / "test", 3, by_folder=True)
    assert registry.load({"data": str(tmp_path)}).summary()["rows"]["test"] == 6


def test_steps_make_one_length(tmp_path: Path) -> None:
    task = registry.load({"data": sounds(tmp_path), "steps": 1000})
    whole = registry.load({"data": str(tmp_path)})
    assert task.inputs[0].shape == (1, 1000) and not task.spec.varies_in_length
    assert np.array_equal(task.data.inputs["series"], whole.data.inputs["series"][:, :, :1000])
    assert task.fingerprint != whole.fingerprint


def test_another_rate_is_other_data(tmp_path: Path) -> None:
    for rate in (8000, 16000):
        for k in range(24):
            write_wav(tmp_path / str(rate) / f"{'ab'[k % 2]}_{k}.wav", np.arange(600) * (k + 1), rate)
    slow, fast = (registry.load({"data": str(tmp_path / str(rate))}) for rate in (8000, 16000))
    assert slow.fingerprint != fast.fingerprint


# ── The spectrogram ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 44100])
def test_the_spectrogram_is_numpys(rate: int) -> None:
    spectrogram = LogMel(rate)
    size, hop = len(spectrogram.window), spectrogram.hop
    assert 0.025 * rate <= size < 0.05 * rate and size == 4 * hop
    x = random.normal(size=(3, 1, 5 * size + 7)) * 3000
    ours, lengths = spectrogram(torch.tensor(x, dtype=torch.float32))
    assert lengths is None
    padded = np.pad(x[:, 0].astype(np.float32).astype(np.float64), ((0, 0), (size // 2, size // 2)))
    window = np.hanning(size + 1)[:-1]
    frames = np.stack([padded[:, k * hop : k * hop + size] for k in range(x.shape[2] // hop + 1)], 1)
    power = np.abs(np.fft.rfft(frames * window * 2 / window.sum())) ** 2
    expected = np.log(power @ bands_by_frequency(spectrogram, size) + FLOOR).transpose(0, 2, 1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def bands_by_frequency(spectrogram: LogMel, size: int) -> np.ndarray:
    """(size / 2 + 1, bands): the module's own, which lie in the order of its table, some frequencies twice."""
    rows = size // 16
    frequency = (np.arange(rows // 2 + 1)[:, None] + rows * np.arange(16)).reshape(-1)
    bands = np.zeros((size // 2 + 1, spectrogram.bands.shape[1]))
    np.add.at(bands, np.minimum(frequency, size - frequency), spectrogram.bands.numpy() / 127)
    return bands


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 44100])
def test_the_bands_are_triangles_in_whole_steps(rate: int) -> None:
    """Each to a factor of its own, which the scaling by band takes out."""
    spectrogram = LogMel(rate)
    size = len(spectrogram.window)
    ours, exact = bands_by_frequency(spectrogram, size), mel_bands(rate, size)
    assert exact.shape == ours.shape and 20 < exact.shape[1] <= 40
    assert np.array_equal(spectrogram.bands, spectrogram.bands.round())
    assert (spectrogram.bands.amax(0) == 127).all()
    factor = exact.max(axis=0) / ours[exact.argmax(axis=0), np.arange(ours.shape[1])]
    assert np.abs(ours * factor - exact).max() < 2.5 / 127


def test_a_tone_is_loudest_in_its_band() -> None:
    spectrogram = LogMel(8000)
    mel = np.arange(1, 41) / 41 * 2595 * np.log10(1 + 4000 / 700)
    centers = 700 * (10 ** (mel / 2595) - 1)
    for band in (5, 15, 25, 35):
        tone = 8000 * np.sin(2 * np.pi * centers[band] * np.arange(4000) / 8000)
        bands, _ = spectrogram(torch.tensor(tone[None, None], dtype=torch.float32))
        assert abs(int(bands[0, :, 30].argmax()) - band) <= 1


def test_what_stands_after_the_end_of_a_row_is_not_heard() -> None:
    spectrogram = LogMel(8000)
    x = torch.randn(1, 1, 1000) * 1000
    alone, _ = spectrogram(x)
    padded = torch.cat([x, 1e4 * torch.randn(1, 1, 500)], 2)
    beside, lengths = spectrogram(padded, torch.tensor([1000]))
    assert lengths.tolist() == [alone.shape[2]] == [1000 // 64 + 1]
    torch.testing.assert_close(beside[:, :, : alone.shape[2]], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("variant", ["raw", "picture"])  # the spectrogram is what `tones` is anyway
def test_every_form_of_sounds_holds_the_suite(variant: str, check: str) -> None:
    TASK_CHECKS[check](registry.load({"task": "tones", **VARIANTS[variant]}))


def test_forms_say_what_families_take() -> None:
    found = {name: registry.load({"task": "tones", **options}).spec for name, options in VARIANTS.items()}
    assert {name: (spec.modality, spec.inputs[0].shape) for name, spec in found.items()} == {
        "raw": ("series", (1, 1024)), "spectrogram": ("series", (40, 17)), "picture": ("image", (1, 40, 17)),
    }  # fmt: skip


class Head(nn.Module):
    """A linear network on the first input, whatever else it takes."""

    def __init__(self, task: ArrayTask) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(int(np.prod(task.spec.inputs[0].shape)), task.spec.outputs[0].shape[0])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = self.linear(x.flatten(1))
        return out if lengths is None else out / lengths.to(x.dtype).view(-1, 1)


@pytest.mark.parametrize("steps", [None, 1000])
def test_the_exported_graph_takes_samples(tmp_path: Path, steps: int | None) -> None:
    source = {"data": sounds(tmp_path / "wav"), "features": "logmel", "steps": steps}
    task = registry.load(source)
    deployed = Deployed(task.preprocessor(), Head(task), task.postprocessor()).eval()
    raw = task.raw("val")
    onnx_io.export(deployed, task.inputs, task.answers, tmp_path / "m.onnx", example=raw)
    ours = TorchPredictor(deployed, task.inputs, task.answers)(raw)["probabilities"]
    theirs = OnnxPredictor(tmp_path / "m.onnx")(raw)["probabilities"]
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    drawn = draw_inputs(tmp_path / "m.onnx")  # what latency is measured with
    assert {name: (v.dtype, v.shape) for name, v in drawn.items()} == {
        name: (v.dtype, (1, *v.shape[1:])) for name, v in raw.items()
    }


def test_int8_leaves_the_spectrogram_as_it_is(tmp_path: Path) -> None:
    """Nothing before its logarithm is quantized but its bands, which int8 holds without a change: the file answers as
    that of the network alone does, quantized by the same spectrograms and given them."""
    task = registry.load({"task": "tones"})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv1d(40, 64, 3), nn.Linear(64, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(torch.relu(self.conv(x)).mean(2))
            return out

    raw, seen = task.raw("val"), {"series": task.raw("train")["series"][:64]}
    spectrograms, seen_spectrograms = (
        {"series": task.preprocessor()(torch.from_numpy(rows["series"])).numpy()} for rows in (raw, seen)
    )
    sizes = {}
    for name, preprocessor, inputs, example, batch in (
        ("whole", task.preprocessor(), task.inputs, raw, seen),
        ("alone", nn.Identity(), (TensorSpec("series", (40, 17)),), spectrograms, seen_spectrograms),
    ):
        deployed, fp32 = Deployed(preprocessor, Net(), task.postprocessor()).eval(), tmp_path / f"{name}-fp32.onnx"
        sizes[name] = onnx_io.export(deployed, inputs, task.answers, fp32, example=example)
        sizes[f"{name} weight-only"] = weight_only(fp32, tmp_path / f"{name}-weight-only.onnx")
        int8.static(fp32, tmp_path / f"{name}-static.onnx", [batch])
        int8.dynamic(fp32, tmp_path / f"{name}-dynamic.onnx")
    # 4 bytes a number of the bands have become 1, but for their 40 scales and the node that applies them
    saved = sizes["whole"] - sizes["whole weight-only"] - (sizes["alone"] - sizes["alone weight-only"])
    assert 0 <= 3 * 144 * 40 - saved < 400
    fp32_answers = OnnxPredictor(tmp_path / "whole-fp32.onnx")(raw)["probabilities"]
    for way, atol in (("weight-only", 1e-4), ("static", 2e-3), ("dynamic", 2e-3)):  # of a step of 8 bits here and there
        whole = OnnxPredictor(tmp_path / f"whole-{way}.onnx")(raw)["probabilities"]
        alone = OnnxPredictor(tmp_path / f"alone-{way}.onnx")(spectrograms)["probabilities"]
        np.testing.assert_allclose(whole, alone, rtol=0, atol=atol, err_msg=way)
        assert 0 < np.abs(whole - fp32_answers).max() < 0.05, way
        model = onnx.load(tmp_path / f"whole-{way}.onnx")
        first = next(k for k, node in enumerate(model.graph.node) if node.op_type == "Log")
        ops = {node.op_type for node in model.graph.node[:first]}
        assert not {"QuantizeLinear", "MatMulInteger", "DynamicQuantizeLinear"} & ops, way


# ── Real data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_spoken_digits(stored_data: Callable[[str], Path]) -> None:
    task = registry.load({"data": str(stored_data("fsdd")), "test_files": "*_[0-4].wav", "steps": 4000})
    assert task.labels == tuple("0123456789") and task.data.rate == 8000
    assert sum(task.summary()["rows"].values()) == 3000 and task.n_examples("test") == 300
    assert set(np.bincount(task.data.target_of("test"))) == {30}


def test_a_spectrogram_is_not_rebuilt() -> None:
    with pytest.raises(BadInput, match="cannot be turned back into samples; use --features raw"):
        registry.load({"task": "tones", "kind": "reconstruction"})
