"""Sounds as log-mel spectrograms, computed from raw samples inside the exported graph; and the packaged task `tones`.

A spectrogram is a series with one channel a mel band, or an image. Its transform is two products with small fixed
matrices (Cooley & Tukey 1965): one convolution with a windowed basis would put 264 kB into the file where these put 6,
and ONNX Runtime's own DFT is slower and agrees with torch to 5e-4 where they agree to 2e-6 (measured with 1.31). Davis
& Mermelstein 1980, Comparison of parametric representations for monosyllabic word recognition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.source import Source
from searchkit.tasks.modalities.image import crop, cutout
from searchkit.tasks.modalities.series import ScaleSeries, Series, jitter, scale, shift
from searchkit.tasks.prepare import make_task

EMBEDDED = {"tones": "tones, chirps, warbles, pulses and noise: 1,200 sounds of 1,024 samples at 8 kHz (generated)"}

WINDOW_SECONDS = 0.025  # at least; the next power of two of samples is taken
FRAMES_A_WINDOW = 4
MOST_BANDS = 40
FLOOR = 10.0  # in the square of a 16-bit step, -80 dB of full scale: what is below is silence
COLUMNS = 16  # of the table that a frame of samples is laid out in
BAND_STEPS = 127  # the largest number of every band, and all are whole: int8 holds them as they are
BLOCK_ROWS = 128


def mel_bands(rate: int, window: int) -> np.ndarray:
    """Triangular filters of the mel scale (O'Shaughnessy 1987), from 0 to half the sample rate.

    Args:
        rate: Samples a second.
        window: Samples of a frame, a power of two.

    Returns:
        (window / 2 + 1, bands) weights from 0 to 1. There are as many bands as each can hold a frequency, 40 at most.
    """
    mel = 2595 * np.log10(1 + np.arange(window // 2 + 1) * (rate / window) / 700)
    # The lowest bands are the narrowest: with too many of them one lies between two frequencies, and holds none.
    for n_bands in range(MOST_BANDS, 0, -1):
        place = mel / mel[-1] * (n_bands + 1)
        bands = np.maximum(0.0, 1 - np.abs(place[:, None] - np.arange(1, n_bands + 1)))
        if (bands > 0.1).any(axis=0).all():
            break
    return np.asarray(bands)


class LogMel(nn.Module):
    """Log power by mel band.

    The DFT of N = R·C samples: with n = C·r + c and k = k1 + R·k2, it is a sum over r, a rotation by c·k1/N, and a sum
    over c. Since samples are real, k1 up to R / 2 gives every frequency, some of them twice.
    """

    window: Tensor
    over_r: Tensor
    turn: Tensor
    over_c: Tensor
    bands: Tensor

    def __init__(self, rate: int) -> None:
        super().__init__()
        size = 1 << max(5, int(np.ceil(np.log2(WINDOW_SECONDS * rate))))
        columns, rows = COLUMNS, size // COLUMNS
        self.hop, self.columns, self.n_first = size // FRAMES_A_WINDOW, columns, rows // 2 + 1
        first, last = np.arange(self.n_first), np.arange(columns)
        # Angles, (R, k1), (C, k1) and (C, k2): of the sum over r, of the rotation, and of the sum over c.
        over_r, turn, over_c = (
            2 * np.pi * np.outer(n, k) / period
            for n, k, period in ((np.arange(rows), first, rows), (last, first, size), (last, last, columns))
        )
        # numpy's window is symmetric; without its last value it is periodic, as a DFT takes it.
        window = np.hanning(size + 1)[:-1]
        window *= 2 / window.sum() / np.sqrt(BAND_STEPS)  # so that a tone has the power of its amplitude
        # The frequency of each output of `power`. Of real samples N − k has the power of k, so those above N / 2 are
        # folded back, and a frequency that is there twice counts half each time.
        frequency = (first[:, None] + rows * last).reshape(-1)
        frequency = np.minimum(frequency, size - frequency)
        bands = mel_bands(rate, size)[frequency] / np.bincount(frequency)[frequency][:, None]
        bands = np.rint(bands / bands.max(axis=0) * BAND_STEPS)
        tensors = {
            "bands": bands,
            "window": window,
            "over_r": np.concatenate([np.cos(over_r), -np.sin(over_r)], 1),
            "turn": np.stack([np.cos(turn), np.sin(turn)]),
            "over_c": np.block([[np.cos(over_c), -np.sin(over_c)], [np.sin(over_c), np.cos(over_c)]]),
        }
        for name, values in tensors.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, series: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform samples.

        Args:
            series: (B, 1, L) samples.
            lengths: (B,) valid samples, if they vary.

        Returns:
            (B, bands, L // hop + 1) log power, and the lengths in frames. Frame i is centered on sample i·hop; samples
            outside a row count as silence.
        """
        x_BL = series.to(torch.float32).squeeze(1)
        if lengths is not None:
            x_BL = torch.where(torch.arange(x_BL.shape[1], device=x_BL.device) < lengths[:, None], x_BL, 0.0)
            lengths = torch.div(lengths, self.hop, rounding_mode="floor") + 1
        half = self.hop * FRAMES_A_WINDOW // 2
        x_BL = nn.functional.pad(x_BL, (half, half))
        # A frame is FRAMES_A_WINDOW hops in a row: (B, hops, hop) is put beside itself, moved by one hop each time, to
        # (B, F, N).
        hops_BFS = torch.unflatten(x_BL[:, : x_BL.shape[1] // self.hop * self.hop], 1, (-1, self.hop))
        ends = [hops_BFS[:, i : i - FRAMES_A_WINDOW + 1 or None] for i in range(FRAMES_A_WINDOW)]
        power_BFK = self.power(torch.cat(ends, 2))
        return torch.log(power_BFK @ self.bands + FLOOR).transpose(1, 2), lengths

    def power(self, frames_BFN: Tensor) -> Tensor:
        """Power of each frame: (B, F, N) to (B, F, K), in the order of `bands`."""
        # (B, F, R, C), transposed, to (B, F, C, 2·k1): cosine and sine parts side by side. Rotated, they are
        # (B, F, k1, 2·C), and the second product sums over c.
        table = torch.unflatten(frames_BFN * self.window, 2, (-1, self.columns)).transpose(2, 3) @ self.over_r
        real, imaginary = table[..., : self.n_first], table[..., self.n_first :]
        cos, sin = self.turn[0], self.turn[1]
        turned = torch.cat([real * cos + imaginary * sin, imaginary * cos - real * sin], 2).transpose(2, 3)
        squares = (turned @ self.over_c).square()
        return (squares[..., : self.columns] + squares[..., self.columns :]).flatten(2)


class LogMelFrontend(nn.Module):
    """Standardize a spectrogram: mean 0 and deviation 1 for each band, and 0 after the end of a row."""

    def __init__(self, spectrogram: LogMel, scaled: ScaleSeries, *, as_picture: bool) -> None:
        super().__init__()
        self.spectrogram = spectrogram
        self.scaled = scaled
        self.as_picture = as_picture

    def forward(self, series: Tensor, lengths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 1, L) samples to (B, bands, frames), or to (B, 1, bands, frames) as an image.

        The lengths in frames follow if lengths vary.
        """
        bands, frames = self.spectrogram(series, lengths)
        scaled: Tensor | tuple[Tensor, Tensor] = self.scaled(bands, frames)
        if self.as_picture:
            assert isinstance(scaled, Tensor)
            return scaled.unsqueeze(1)
        return scaled


@torch.no_grad()
def _band_statistics(spectrogram: LogMel, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each band over the valid frames of train, (bands,) each."""
    count, total, squares = 0, 0.0, 0.0
    for bands, frames in _blocks(spectrogram, data):
        valid = np.ones(bands.shape[::2], bool) if frames is None else np.arange(bands.shape[2]) < frames[:, None]
        kept = bands.transpose(0, 2, 1)[valid].astype(np.float64)
        count, total, squares = count + len(kept), total + kept.sum(axis=0), squares + np.square(kept).sum(axis=0)
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return mean, np.where(std > 1e-6, std, 1.0)


def _blocks(spectrogram: LogMel, data: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    rows = data.rows["train"]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        bands, frames = spectrogram(*(torch.from_numpy(values[block]) for values in data.inputs.values()))
        yield bands.numpy(), None if frames is None else frames.numpy()


@dataclass(frozen=True)
class Spectrogram:
    """Raw samples as input, a spectrogram to the network.

    Attributes:
        form: What families take it for: "series" or "image".
        augmentations: By name, on a batch of spectrograms.
        corrupts: Augmentations that leave the clean input as the target of a reconstruction.
        samples: The modality of the raw samples.
    """

    form: str
    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]]
    corrupts: frozenset[str]
    samples: Series = field(default_factory=Series)

    def arrange(self, found: RawDataset) -> Arrays:
        """Lay out the raw samples as a series."""
        inputs = self.samples.arrange(found)
        if found.rate < 1 or inputs["series"].shape[1] != 1:
            raise BadInput(
                f"{found.where} has no rate of samples, which a log-mel spectrogram needs; --features logmel is for "
                "sounds (wav)."
            )
        if self.form == "image" and "lengths" in inputs:
            longest = inputs["series"].shape[2]
            raise BadInput(
                f"The sounds of {found.where} differ in length (at most {longest:,} samples), and pictures are of one "
                "size; give --steps N, or leave out --modality image."
            )
        return inputs

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Raw inputs: the samples, and their lengths if they vary."""
        return self.samples.ports(data)

    def preprocessor(self, data: Dataset) -> LogMelFrontend:
        """Samples to a standardized spectrogram, with statistics of train."""
        spectrogram = LogMel(data.rate)
        scaled = ScaleSeries(*_band_statistics(spectrogram, data))
        return LogMelFrontend(spectrogram, scaled, as_picture=self.form == "image")

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Refuse: a spectrogram cannot be turned back into samples.

        Raises:
            BadInput: Always.
        """
        raise BadInput(f"A spectrogram of {data.where} cannot be turned back into samples; use --features raw.")

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


MODALITIES = {
    "logmel series": Spectrogram("series", {"jitter": jitter, "scale": scale, "shift": shift}, frozenset({"jitter"})),
    "logmel image": Spectrogram("image", {"crop": crop, "cutout": cutout}, frozenset({"cutout"})),
}


# ── Tones ────────────────────────────────────────────────────────────────────────────────────────────────────────────

RATE = 8000
SAMPLES = 1024
EACH = 200  # sounds of a class
SEED = 19800801  # of the data, which are the same for every run

CLASSES = ("falling", "noise", "pulses", "rising", "tone", "warble")


@cache
def _tones() -> tuple[np.ndarray, np.ndarray]:
    """Generate `tones`: (n, 1, 1024) int16 samples and (n,) int64 classes.

    Each sound has its own pitch, phase, loudness and noise.
    """
    generator = np.random.default_rng(SEED)
    n = EACH * len(CLASSES)
    target = generator.permutation(np.repeat(np.arange(len(CLASSES)), EACH))
    time = np.arange(SAMPLES) / RATE
    clean = np.stack([_sound(CLASSES[label], time, generator) for label in target])
    clean /= np.sqrt(np.mean(np.square(clean), axis=1, keepdims=True))
    noisy = clean + generator.normal(size=clean.shape) * generator.uniform(0.2, 0.7, (n, 1))
    loud = noisy * generator.uniform(800.0, 5000.0, (n, 1))
    return np.clip(np.rint(loud), -32768, 32767).astype(np.int16)[:, None, :], target.astype(np.int64)


def _sound(name: str, time: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One sound of a class, (samples,), before loudness. A chirp and a warble span a tone's range of pitches."""
    pitch, phase = generator.uniform(400.0, 2400.0), generator.uniform(0.0, 2 * np.pi)
    seconds = time[-1]
    match name:
        case "noise":
            return np.asarray(np.convolve(generator.normal(size=len(time)), [1.0, 0.5, -0.5], "same"))
        case "pulses":
            period = generator.integers(60, 220)
            ticks = (np.arange(len(time)) + generator.integers(period)) % period
            return np.asarray(np.exp(-ticks / 6.0) * np.sin(2 * np.pi * pitch * ticks / RATE + phase))
        case "tone":
            bend = np.zeros_like(time)
        case "warble":
            swings = generator.uniform(16.0, 30.0)  # a second
            bend = 0.22 * np.sin(2 * np.pi * swings * time) / (2 * np.pi * swings)
        case _:
            slope = generator.uniform(0.25, 0.55) * (1 if name == "rising" else -1) / seconds
            bend = slope * (time**2 / 2 - time * seconds / 2)  # the pitch is the mean of the sweep
    return np.asarray(np.sin(2 * np.pi * pitch * (time + bend) + phase))


def load(source: Source) -> Task:
    """Load the packaged task `tones`."""
    x, target = _tones()
    found = RawDataset("tones", x, target, "the task 'tones'", "series", labels=CLASSES, rate=RATE)
    return make_task(found, replace(source, features=source.features or "logmel"))
