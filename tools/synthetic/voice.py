"""Formant synthesiser: random sentences of phonemes and synthetic voices.

After Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980): a glottal pulse train and noise go
through a cascade of resonators, friction noise bypasses it. All control values are on a grid of 1 ms ticks, shared
with the mouth (`tools.synthetic.clip`), so that audio and video cannot drift apart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE

Array = NDArray[np.float64]

TICKS = 1000  #: control ticks per second
HOP = SAMPLE_RATE // 200  #: samples between two settings of the vocal tract, 5 ms
FFT = 1024  #: 64 ms, by when a resonance of 50 Hz bandwidth has decayed by 87 dB
#: Hz and bandwidth of the resonances that do not move; without those above 5 kHz a cascade at 16 kHz sounds muffled
UPPER_FORMANTS = ((3500.0, 200.0), (4500.0, 280.0), (5500.0, 350.0), (6600.0, 450.0))
BANDWIDTHS = (70.0, 90.0, 140.0)  #: Hz, of the three resonances that move
MIN_CLOSURE = 0.06  #: s; more than one video frame, so that every bilabial is visibly closed at least once


class Phoneme(NamedTuple):
    """Targets of one phoneme.

    Attributes:
        kind: ``vowel``, ``stop``, ``fricative``, ``nasal``, ``glide`` or ``pause``.
        formants: first three resonances in Hz, of a tract of 17 cm.
        seconds: usual duration.
        voice: strength of the glottal source in [0, 1].
        noise: strength of friction, or of a stop's burst, in [0, 1].
        noise_hz: centre of the friction noise in Hz.
        zero: antiresonance of a nasal in Hz, 0 for none.
    """

    kind: str
    formants: tuple[float, float, float]
    seconds: float
    voice: float
    noise: float = 0.0
    noise_hz: float = 3000.0
    zero: float = 0.0


PHONEMES: dict[str, Phoneme] = {
    "_": Phoneme("pause", (500, 1500, 2500), 0.25, 0.0),
    "i": Phoneme("vowel", (280, 2250, 2950), 0.13, 1.0),
    "I": Phoneme("vowel", (390, 1990, 2550), 0.09, 1.0),
    "e": Phoneme("vowel", (440, 2050, 2600), 0.13, 1.0),
    "E": Phoneme("vowel", (540, 1840, 2480), 0.11, 1.0),
    "A": Phoneme("vowel", (680, 1700, 2420), 0.15, 1.0),
    "a": Phoneme("vowel", (740, 1150, 2450), 0.16, 1.0),
    "V": Phoneme("vowel", (630, 1220, 2400), 0.10, 1.0),
    "@": Phoneme("vowel", (500, 1450, 2450), 0.07, 0.9),
    "O": Phoneme("vowel", (580, 860, 2420), 0.15, 1.0),
    "o": Phoneme("vowel", (450, 820, 2380), 0.14, 1.0),
    "U": Phoneme("vowel", (430, 1030, 2250), 0.09, 1.0),
    "u": Phoneme("vowel", (310, 880, 2250), 0.13, 1.0),
    "p": Phoneme("stop", (250, 800, 2200), 0.12, 0.0, 0.35, 1200),
    "b": Phoneme("stop", (220, 850, 2250), 0.09, 0.5, 0.20, 1000),
    "t": Phoneme("stop", (300, 1700, 2650), 0.11, 0.0, 0.50, 4300),
    "d": Phoneme("stop", (220, 1700, 2650), 0.08, 0.5, 0.30, 4000),
    "k": Phoneme("stop", (300, 1900, 2350), 0.12, 0.0, 0.45, 2200),
    "g": Phoneme("stop", (220, 1850, 2300), 0.09, 0.5, 0.28, 2000),
    "C": Phoneme("stop", (300, 1850, 2600), 0.15, 0.0, 0.55, 3300),
    "m": Phoneme("nasal", (260, 1150, 2200), 0.085, 0.55, zero=1000),
    "n": Phoneme("nasal", (260, 1500, 2500), 0.075, 0.55, zero=1600),
    "N": Phoneme("nasal", (260, 2000, 2600), 0.09, 0.5, zero=3000),
    "f": Phoneme("fricative", (330, 1100, 2200), 0.11, 0.0, 0.16, 6300),
    "v": Phoneme("fricative", (250, 1100, 2200), 0.08, 0.5, 0.08, 5800),
    "T": Phoneme("fricative", (320, 1350, 2550), 0.11, 0.0, 0.14, 6000),
    "D": Phoneme("fricative", (270, 1350, 2550), 0.06, 0.5, 0.06, 5500),
    "s": Phoneme("fricative", (320, 1450, 2600), 0.11, 0.0, 0.50, 5800),
    "z": Phoneme("fricative", (260, 1450, 2600), 0.09, 0.45, 0.28, 5600),
    "S": Phoneme("fricative", (320, 1800, 2600), 0.12, 0.0, 0.55, 3200),
    "h": Phoneme("fricative", (500, 1450, 2450), 0.07, 0.1),
    "l": Phoneme("glide", (350, 1100, 2800), 0.075, 0.7),
    "r": Phoneme("glide", (340, 1150, 1650), 0.08, 0.7),
    "w": Phoneme("glide", (300, 680, 2200), 0.08, 0.7),
    "j": Phoneme("glide", (280, 2200, 2950), 0.075, 0.7),
}
ONSETS = "p b t d k g m n f v s z S h l r w j C D T b m p l n t s d w pl br st fr sp gr".split()
NUCLEI = "i I e E A a V O o u U a A i o E aI aU OI eI oU".split()  # the last five glide
CODAS = "n t s l m d k v p z N r f S nd st mp".split()


class Voice(NamedTuple):
    """Voice of one speaker.

    Attributes:
        f0: mean pitch in Hz.
        tract: factor on all resonances; a shorter vocal tract has a larger one.
        rate: factor on the speed of speech.
        breath: share of noise in the voiced source.
        melody: relative excursion of the pitch.
        jitter: relative irregularity of the pitch.
        pause: factor on the length and number of pauses.
        tilt: Hz above which the glottal source falls off more steeply.
    """

    f0: float
    tract: float
    rate: float
    breath: float
    melody: float
    jitter: float
    pause: float
    tilt: float


class Segment(NamedTuple):
    """A phoneme with its place in time, in seconds; ``release`` is the end of a stop's closure, else ``end``."""

    symbol: str
    start: float
    release: float
    end: float
    stress: float


def random_voice(rng: np.random.Generator) -> Voice:
    """Draw a speaker."""
    high = rng.random()  # one number for pitch and tract, because both depend on body size
    return Voice(
        f0=float(92 * 2.35 ** (0.85 * high + 0.15 * rng.random())),
        tract=float(0.95 + 0.2 * high + rng.uniform(-0.04, 0.04)),
        rate=float(rng.uniform(0.88, 1.18)),
        breath=float(rng.uniform(0.02, 0.14)),
        melody=float(rng.uniform(0.1, 0.3)),
        jitter=float(rng.uniform(0.004, 0.015)),
        pause=float(rng.uniform(0.5, 1.1)),
        tilt=float(rng.uniform(1800, 4000)),
    )


def random_sentence(rng: np.random.Generator, voice: Voice, seconds: float) -> list[Segment]:
    """Draw invented words that fill the time, with pauses between phrases and silence at both ends.

    Args:
        rng: random generator.
        voice: speaker; its rate determines the durations.
        seconds: length to fill.

    Returns:
        Contiguous segments from 0 to ``seconds``.
    """
    segments: list[Segment] = []
    time = _append(segments, "_", 0.0, min(0.3 * seconds, float(rng.uniform(0.12, 0.3))), 1.0)
    words_left = int(rng.integers(4, 9))
    misfits = 0
    while misfits < 8:  # a shorter word may still fit where a long one did not
        word = _random_word(rng, voice)
        if time + sum(length for _, length, _ in word) > seconds - 0.12:
            misfits += 1
            continue
        for symbol, length, stress in word:
            time = _append(segments, symbol, time, length, stress)
        words_left -= 1
        if not words_left:
            pause = float(rng.uniform(0.2, 0.5)) * voice.pause + 0.08
            time = _append(segments, "_", time, min(pause, seconds - 0.06 - time), 1.0)
            words_left = int(rng.integers(4, 9) / voice.pause)
    _append(segments, "_", time, max(seconds - time, 1e-3), 1.0)
    return segments


def _random_word(rng: np.random.Generator, voice: Voice) -> list[tuple[str, float, float]]:
    """Symbols of one word with their seconds and stress."""
    syllables = int(rng.choice([1, 2, 3], p=[0.4, 0.42, 0.18]))
    accent = int(rng.integers(syllables))
    word: list[tuple[str, float, float]] = []
    for index in range(syllables):
        stress = 1.0 if index == accent else 0.72
        onset = str(rng.choice(ONSETS)) if rng.random() < 0.88 else ""
        nucleus = str(rng.choice(NUCLEI)) if index == accent or rng.random() < 0.5 else "@"
        coda = str(rng.choice(CODAS)) if rng.random() < (0.45 if index == syllables - 1 else 0.12) else ""
        for symbol in onset + nucleus + coda:
            phoneme = PHONEMES[symbol]
            scale = (0.7 + 0.4 * stress if phoneme.kind == "vowel" else 1.0) / len(
                onset if symbol in onset else "1"
            ) ** 0.3
            length = phoneme.seconds * scale * float(rng.uniform(0.88, 1.15)) / voice.rate
            if symbol in "pbm":  # the lips stay closed long enough to be visible
                share = 1.0 if phoneme.kind == "nasal" else 0.8 if phoneme.voice > 0 else 0.6
                length = max(length, MIN_CLOSURE / share)
            word.append((symbol, length, stress))
    return word


def _append(segments: list[Segment], symbol: str, start: float, length: float, stress: float) -> float:
    """Add a segment and return its end."""
    kind, voiced = PHONEMES[symbol].kind, PHONEMES[symbol].voice > 0
    share = (0.8 if voiced else 0.5 if symbol == "C" else 0.6) if kind == "stop" else 1.0
    segments.append(Segment(symbol, start, start + share * length, start + length, stress))
    return start + length


def smooth(track: Array, ticks: int) -> Array:
    """Average with a symmetric Hann window of ``ticks``, along the first axis; the end values are repeated."""
    kernel = np.hanning(2 * (ticks // 2) + 3)[1:-1]
    half = len(kernel) // 2
    padded = np.pad(track, [(half, half), *[(0, 0)] * (track.ndim - 1)], mode="edge")
    columns = padded.reshape(len(padded), -1).T
    rows = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in columns]
    return np.stack(rows, axis=1).reshape(track.shape)


def synthesize_voice(rng: np.random.Generator, voice: Voice, segments: list[Segment]) -> NDArray[np.float32]:
    """Synthesise the audio of segments.

    Args:
        rng: random generator of noise and jitter.
        voice: speaker.
        segments: as `random_sentence` gives them.

    Returns:
        (S,) float32 at 16 kHz in (-1, 1), S the rounded length of the segments; speech has an RMS near 0.09.
    """
    ticks = max(1, round(segments[-1].end * TICKS))
    samples = round(segments[-1].end * SAMPLE_RATE)
    amplitudes = _amplitudes(segments, ticks)
    at = (np.arange(samples) + 0.5) * TICKS / SAMPLE_RATE - 0.5
    voicing, aspiration, friction = (np.interp(at, np.arange(ticks), track) for track in amplitudes.T)
    pulses, glottis = _glottal_pulses(rng, voice, np.interp(at, np.arange(ticks), _pitch(rng, voice, segments, ticks)))
    noise = rng.normal(size=samples)
    source = voicing * (pulses + voice.breath * glottis * noise) + 0.16 * aspiration * noise
    hops = np.minimum((np.arange(samples // HOP + 2) * HOP * TICKS) // SAMPLE_RATE, ticks - 1)
    tract, friction_shape = _responses(voice, segments, ticks, hops)
    sound = _filter(source, tract) + _filter(friction * rng.normal(size=samples), friction_shape)
    loud = amplitudes.sum(1) > 0.3
    level = np.sqrt(np.mean(sound[np.interp(at, np.arange(ticks), loud) > 0.5] ** 2)) if loud.any() else 1.0
    # tanh changes only rare peaks above about 0.5; no sample can clip
    return np.tanh(sound * (0.09 / level) + 1e-4 * rng.normal(size=samples)).astype(np.float32)


def _amplitudes(segments: list[Segment], ticks: int) -> Array:
    """(ticks, 3) strengths of voicing, aspiration and friction."""
    tracks = np.zeros((ticks, 3))
    for segment in segments:
        phoneme = PHONEMES[segment.symbol]
        start, release, end = (round(time * TICKS) for time in segment[1:4])
        if phoneme.kind == "stop":
            burst = end if segment.symbol == "C" else release + 14
            tracks[start:release, 0] = 0.22 * phoneme.voice  # voice bar during the closure
            tracks[release + 6 : end, 0] = phoneme.voice
            tracks[release:burst, 2] = phoneme.noise
            tracks[release + 6 : end, 1] = 0.0 if phoneme.voice else 0.7
        else:
            tracks[start:end, 0] = phoneme.voice * (0.55 + 0.45 * segment.stress)
            tracks[start:end, 1] = 0.6 if segment.symbol == "h" else 0.0
            tracks[start:end, 2] = phoneme.noise
    # voice and friction rise at glottal speed, bursts immediately
    return np.stack([smooth(tracks[:, 0], 24), smooth(tracks[:, 1], 20), smooth(tracks[:, 2], 8)], axis=1)


def _pitch(rng: np.random.Generator, voice: Voice, segments: list[Segment], ticks: int) -> Array:
    """(ticks,) pitch in Hz: falls along a phrase, rises on stressed vowels."""
    fall, accents = np.zeros(ticks), np.zeros(ticks)
    pauses = [segment for segment in segments if segment.symbol == "_"]
    for before, after in pairwise(pauses):
        start, end = round(before.end * TICKS), round(after.start * TICKS)
        fall[start:end] = np.linspace(0.6, -0.6, max(end - start, 0))
    for segment in segments:
        if segment.stress == 1.0 and PHONEMES[segment.symbol].kind == "vowel":
            accents[round(segment.start * TICKS) : round(segment.end * TICKS)] = rng.uniform(0.3, 1.3)
    contour = voice.melody * (smooth(fall, 60) + smooth(accents, 160))
    flutter = smooth(rng.normal(size=ticks), 8) * voice.jitter * 2.5
    return voice.f0 * np.exp(contour + flutter)


def _glottal_pulses(rng: np.random.Generator, voice: Voice, pitch: Array) -> tuple[Array, Array]:
    """(S,) derivative of the glottal flow (KLGLOTT88: x^2 - x^3 while open) and (S,) how open the glottis is."""
    over = 4  # the corner at closure aliases at 16 kHz; computing it four times finer and averaging reduces this
    phase = np.cumsum(np.repeat(pitch, over)) / (SAMPLE_RATE * over) + rng.random()
    shimmer = 1 + 0.06 * rng.normal(size=int(phase[-1]) + 1)
    opened = phase % 1.0 / (0.55 + 1.2 * voice.breath)
    pulse = np.where(opened < 1, 2 * opened - 3 * opened**2, 0.0) * shimmer[phase.astype(int)]
    glottis = np.where(opened < 1, 4 * opened * (1 - opened), 0.1)
    return pulse.reshape(-1, over).mean(1), glottis.reshape(-1, over).mean(1)


def _responses(
    voice: Voice, segments: list[Segment], ticks: int, hops: NDArray[np.int64]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Frequency responses (hops, FFT / 2 + 1) of the vocal tract and of the place of friction."""
    targets = np.zeros((ticks, 6))
    for segment in segments:
        phoneme = PHONEMES[segment.symbol]
        row = (*phoneme.formants, phoneme.zero or 1000.0, float(phoneme.zero > 0), phoneme.noise_hz)
        targets[round(segment.start * TICKS) : round(segment.end * TICKS)] = row
    targets = np.concatenate([smooth(targets[:, :5], 55), smooth(targets[:, 5:], 20)], axis=1)[hops]
    nasal = targets[:, 4:5]
    frequencies = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    delay = np.exp(-2j * np.pi * frequencies / SAMPLE_RATE)[None]
    tract = np.ones((len(hops), len(frequencies)), np.complex128) / (1 + 1j * frequencies / voice.tilt)
    for index, width in enumerate(BANDWIDTHS):
        tract *= _resonator(targets[:, index : index + 1] * voice.tract, width * (1 + 1.5 * nasal), delay)
    for hertz, width in UPPER_FORMANTS:
        tract *= _resonator(np.array([[min(hertz * voice.tract, 7600.0)]]), np.array([[width]]), delay)
    # the side branch of a nasal removes a band; blended in and out as the velum moves
    tract *= (1 - nasal) + nasal * 0.8 / _resonator(targets[:, 3:4] * voice.tract, 120 + 0 * nasal, delay)
    centre = targets[:, 5:6] * voice.tract**0.5
    slope = np.where(frequencies < centre, 0.28, 0.5)  # friction falls off more steeply below its centre
    shape = np.exp(-0.5 * (np.log(np.maximum(frequencies, 60.0) / centre) / slope) ** 2)
    return tract, (0.09 * shape).astype(np.complex128)


def _resonator(hertz: Array, width: Array, delay: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Response of a two-pole resonator with gain 1 at 0 Hz; ``delay`` is z^-1 on the frequencies wanted."""
    radius = np.exp(-np.pi * width / SAMPLE_RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * hertz / SAMPLE_RATE), -(radius**2)
    return np.asarray((1 - first - second) / (1 - first * delay - second * delay**2))


def _filter(sound: Array, responses: NDArray[np.complex128]) -> Array:
    """Time-varying filter: overlapping Hann windows of two hops, each through its own response, added up."""
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * HOP) / HOP)
    padded = np.pad(sound, (HOP, 3 * HOP))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP][: len(responses)]
    filtered = np.fft.irfft(np.fft.rfft(blocks * window, FFT) * responses[: len(blocks)], FFT)
    out = np.zeros(len(blocks) * HOP + FFT)
    for index, block in enumerate(filtered):
        out[index * HOP : index * HOP + FFT] += block
    return out[HOP : HOP + len(sound)]
