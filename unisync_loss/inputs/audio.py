"""Whether audio looks like what the expert was trained on: range of a waveform, scale of a mel spectrogram, silence."""

from __future__ import annotations

from torch import Tensor

from unisync_loss.config import SAMPLES_PER_FRAME
from unisync_loss.inputs.calls import Finding
from unisync_loss.inputs.values import check_finite, extremes
from unisync_loss.models.expert import longest_audio, wrong_length

_LOUDEST = 1.5  # of a waveform: resampling and mixing overshoot 1
_QUIETEST = 1e-4  # 3 steps of 16 bits
_LARGEST_MEL = 4.1
_LEAST_MEL = -3.9  # maximum of silence: Wav2Lip's mel is clipped to -4 … 4
#: a mel whose values all lie within this is scaled to [0, 1] or [-1, 1]
_SMALL_MEL = 1.05


def check_audio(audio: Tensor, representation: str) -> list[Finding]:
    """Check that the values of audio are finite and in their range.

    Args:
        audio: (B, S) waveform, or features of three axes or more.
        representation: ``"mel"``, ``"hubert"`` or ``"whisper"``; only a mel has a known range.

    Returns:
        Findings for silence throughout the batch, and for a mel of another scale.

    Raises:
        ValueError: for NaN, infinity, a waveform beyond 1.5 or a mel beyond 4.1.
    """
    check_finite("audio", audio)
    low, high = extremes(audio)
    if audio.ndim == 2:
        return _check_waveform(low, high)
    if representation == "mel":
        return _check_mel(low, high)
    return [_silence(f"{representation} features that are {low:.3g} throughout")] if low == high else []


def check_duration(waveform: Tensor, frames: int) -> None:
    """Check that a waveform spans the same time as a video.

    Args:
        waveform: (B, S).
        frames: T of the video.

    Raises:
        ValueError: for a waveform that is shorter by a frame or more, or longer than an expert takes it.
    """
    if not frames - 1 < waveform.shape[1] / SAMPLES_PER_FRAME <= longest_audio(frames):
        raise wrong_length(f"(B, {frames * SAMPLES_PER_FRAME}) samples", frames, waveform)


def _check_waveform(low: float, high: float) -> list[Finding]:
    peak = max(abs(low), abs(high))
    if peak > _LOUDEST:
        raise ValueError(
            f"audio: expected a waveform in [-1, 1], got values in [{low:.3g}, {high:.3g}]: "
            "samples of 16 bits are divided by 32768"
        )
    return [_silence(f"a waveform of at most {peak:.2g}")] if peak < _QUIETEST else []


def _check_mel(low: float, high: float) -> list[Finding]:
    expected = f"audio: expected Wav2Lip's mel in [-4, 4], silence -4, got values in [{low:.3g}, {high:.3g}]"
    remedy = "pass the waveform, or unisync_loss.representations.mel_spectrogram of it"
    if max(-low, high) > _LARGEST_MEL:
        raise ValueError(f"{expected}: looks like a natural logarithm or decibels; {remedy}")
    if high < _LEAST_MEL:
        return [_silence(f"a mel of at most {high:.3g}")]
    if -low <= _SMALL_MEL and high <= _SMALL_MEL:
        return [Finding("mel scale", f"{expected}: looks like a mel scaled to [0, 1] or [-1, 1]; {remedy}")]
    return []


def _silence(found: str) -> Finding:
    return Finding("silence", f"audio: expected speech, got silence in the whole batch: {found}")
