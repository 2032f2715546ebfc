"""Vibration of a rotating machine: a window of acceleration made from first principles, and the figures that
a sensor with a small processor makes of it.

What a fault looks like is textbook (R. B. Randall, Vibration-based Condition Monitoring, 2nd ed., chapters 2
and 5): imbalance turns with the shaft and grows with the square of its speed; misalignment shows at twice the
shaft's speed and grows with the load; loose feet give many harmonics, and halves of them; a pit in a
bearing's ring rings a resonance of the structure each time a ball passes, at a rate that the bearing's
geometry sets, with a little slip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

SAMPLES = 2048
SAMPLE_RATE_HZ = 4096.0
# A ball bearing 6205: 9 balls of 7.94 mm on a circle of 39.04 mm.
BALLS = 9
BALL_TO_PITCH = 7.94 / 39.04
OUTER_ORDER = BALLS / 2 * (1 - BALL_TO_PITCH)
INNER_ORDER = BALLS / 2 * (1 + BALL_TO_PITCH)
RESONANCE_HZ = 1450.0
DECAY_PER_S = 450.0
SLIP = 0.008
REFERENCE_HZ = 25.0
LINE_HZ = 100.0
# Harmonics of loose feet, and their shares.
LOOSENESS = {0.5: 0.75, 1: 1.0, 1.5: 0.45, 2: 0.7, 2.5: 0.3, 3: 0.5, 4: 0.35, 5: 0.25}
# The envelope is that of what lies above; a shaft's harmonics lie below.
HIGH_PASS_HZ = 900.0

FIGURES = (
    "rms",
    "peak",
    "crest_factor",
    "kurtosis",
    "order_half",
    "order_1",
    "order_2",
    "order_3",
    "high_band_rms",
    "envelope_outer",
    "envelope_inner",
)


@dataclass(frozen=True)
class Windows:
    """How a number of windows came about; every array has one number a window. Speeds in Hz, amplitudes in
    m/s² at the reference speed and full load, `gain` of the mounting without unit."""

    shaft_hz: Array
    load: Array
    gain: Array
    noise: Array
    imbalance: Array
    misalignment: Array
    outer_race: Array
    inner_race: Array
    looseness: Array


def acceleration(windows: Windows, rng: np.random.Generator) -> Array:
    """The windows in m/s², shape (windows, SAMPLES). Phases, slip and noise are drawn from `rng`."""
    count = len(windows.shaft_hz)
    t = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    halves = _powers(_rotation(windows.shaft_hz / 2), 10)
    signal = rng.standard_normal((count, SAMPLES)) * windows.noise[:, None]
    signal += 0.12 * np.sin(2 * np.pi * LINE_HZ * t + rng.uniform(0, 2 * np.pi, (count, 1)))

    def tone(order: float, amplitude: Array) -> Array:
        phase = np.exp(1j * rng.uniform(0, 2 * np.pi, count))
        wave: Array = (halves[round(2 * order)] * (amplitude * phase)[:, None]).imag
        return wave

    speed = (windows.shaft_hz / REFERENCE_HZ) ** 2
    signal += tone(1, windows.imbalance * speed)
    bent = windows.misalignment * (0.4 + 0.6 * windows.load)
    signal += tone(1, 0.35 * bent) + tone(2, bent) + tone(3, 0.3 * bent)
    for order, share in LOOSENESS.items():
        signal += tone(order, windows.looseness * share)
    strikes = _strikes(windows, OUTER_ORDER, windows.outer_race, rng, carried=False)
    strikes += _strikes(windows, INNER_ORDER, windows.inner_race, rng, carried=True)
    return (signal + _ringing(strikes)) * windows.gain[:, None]


def figures(signal: Array, shaft_hz: Array) -> Array:
    """The `FIGURES` of each window, shape (windows, len(FIGURES)): in m/s², but for crest factor, kurtosis
    and the two envelope lines, which are ratios."""
    rms = np.sqrt(np.mean(signal**2, axis=1))
    peak = np.abs(signal).max(axis=1)
    centred = signal - signal.mean(axis=1, keepdims=True)
    kurtosis = np.mean(centred**4, axis=1) / np.mean(centred**2, axis=1) ** 2
    halves = _powers(_rotation(shaft_hz / 2), 6)
    orders = [_amplitude(signal, halves[power]) for power in (1, 2, 4, 6)]
    analytic = _high_band(signal)
    envelope = np.abs(analytic)
    level = envelope.mean(axis=1)
    lines = [_line_near(envelope - level[:, None], order * shaft_hz) for order in (OUTER_ORDER, INNER_ORDER)]
    high = np.sqrt(np.mean(analytic.real**2, axis=1))
    return np.stack(
        [rms, peak, peak / rms, kurtosis, *orders, high, *(line / level for line in lines)], axis=1
    )


def _rotation(frequency_hz: Array) -> Complex:
    """A unit pointer that turns at each window's frequency, shape (windows, SAMPLES)."""
    turns = frequency_hz[:, None] * (np.arange(SAMPLES) / SAMPLE_RATE_HZ)
    pointer: Complex = np.exp(2j * np.pi * turns)
    return pointer


def _powers(pointer: Complex, most: int) -> list[Complex]:
    """The pointer to the powers 0 to `most`: those turn at multiples of its frequency."""
    powers = [np.ones_like(pointer), pointer]
    while len(powers) <= most:
        powers.append(powers[-1] * pointer)
    return powers


def _amplitude(signal: Array, pointer: Complex) -> Array:
    """The amplitude of each window's line at the pointer's frequency: a Fourier sum under a Hann window."""
    window = np.hanning(SAMPLES)
    total = np.sum(signal * window * np.conj(pointer), axis=1)
    amplitude: Array = 2 * np.abs(total) / window.sum()
    return amplitude


def _line_near(envelope: Array, frequency_hz: Array) -> Array:
    """The largest line at a bearing's frequency or a little beside it: slip moves it."""
    pointer, beside = _rotation(frequency_hz), _rotation(SLIP * frequency_hz)
    found = [_amplitude(envelope, p) for p in (pointer, pointer * beside, pointer * np.conj(beside))]
    largest: Array = np.max(found, axis=0)
    return largest


def _strikes(
    windows: Windows, order: float, amplitude: Array, rng: np.random.Generator, *, carried: bool
) -> Array:
    """Impulses at each passage of a ball. A pit in the inner ring is `carried` through the loaded zone once
    a turn, so its strikes swell and fade with the shaft."""
    count = len(windows.shaft_hz)
    rate = windows.shaft_hz * order
    most = int(np.ceil(rate.max() * SAMPLES / SAMPLE_RATE_HZ)) + 4
    gaps = (1 + SLIP * rng.standard_normal((count, most))) / rate[:, None]
    times = np.cumsum(gaps, axis=1) - gaps[:, :1] * rng.uniform(0, 1, (count, 1))
    size = np.repeat(amplitude[:, None], most, axis=1)
    if carried:
        size = size * 0.5 * (1 + np.cos(2 * np.pi * windows.shaft_hz[:, None] * times))
    signal = np.zeros((count, SAMPLES))
    samples = np.floor(times * SAMPLE_RATE_HZ).astype(np.int64)
    inside = (samples >= 0) & (samples < SAMPLES)
    rows = np.broadcast_to(np.arange(count)[:, None], samples.shape)
    np.add.at(signal, (rows[inside], samples[inside]), size[inside])
    return signal


def _ringing(strikes: Array) -> Array:
    """What the structure makes of strikes: a decaying oscillation after each."""
    t = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    response = np.exp(-DECAY_PER_S * t) * np.sin(2 * np.pi * RESONANCE_HZ * t)
    spectrum = np.fft.rfft(strikes, 2 * SAMPLES, axis=1) * np.fft.rfft(response, 2 * SAMPLES)
    return np.fft.irfft(spectrum, 2 * SAMPLES, axis=1)[:, :SAMPLES]


def _high_band(signal: Array) -> Complex:
    """The analytic signal of what lies above HIGH_PASS_HZ (its real part is that band, its magnitude the
    envelope)."""
    spectrum = np.fft.fft(signal, axis=1)
    frequencies = np.fft.fftfreq(SAMPLES, 1 / SAMPLE_RATE_HZ)
    spectrum *= np.where(frequencies > HIGH_PASS_HZ, 2.0, 0.0)
    return np.fft.ifft(spectrum, axis=1)
