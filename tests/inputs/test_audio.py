import pytest
import torch

from unisync_loss.inputs.audio import check_audio, check_duration
from unisync_loss.representations import mel_spectrogram

SPEECH = (0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def test_speech_is_accepted():
    assert check_audio(SPEECH, "mel") == check_audio(SPEECH, "hubert") == []
    assert check_audio(mel_spectrogram(SPEECH), "mel") == []
    assert check_audio(mel_spectrogram(SPEECH)[:, None], "mel") == []
    assert check_audio(9 * torch.randn(2, 10, 32), "hubert") == []


@pytest.mark.parametrize(
    ("audio", "representation", "message"),
    [
        (32768 * SPEECH, "mel", r"waveform in \[-1, 1\], got values in .*16 bits"),
        (100 * mel_spectrogram(SPEECH), "mel", r"mel in \[-4, 4\].*natural logarithm"),
        (mel_spectrogram(SPEECH) - 4, "mel", r"mel in \[-4, 4\].*natural logarithm"),
        (SPEECH / 0, "whisper", "audio: expected finite"),
    ],
)
def test_refused(audio, representation, message):
    with pytest.raises(ValueError, match=message):
        check_audio(audio, representation)


@pytest.mark.parametrize(
    ("audio", "representation", "message"),
    [
        (torch.zeros(2, 6400), "hubert", "silence in the whole batch: a waveform"),
        (mel_spectrogram(torch.zeros(2, 6400)), "mel", "silence in the whole batch: a mel of at most -4"),
        (torch.zeros(2, 10, 32), "hubert", "silence in the whole batch: hubert features that are 0 throughout"),
        ((mel_spectrogram(SPEECH) + 4) / 8, "mel", r"looks like a mel scaled to \[0, 1\]"),
        (mel_spectrogram(SPEECH) / 4, "mel", r"looks like a mel scaled to \[0, 1\] or \[-1, 1\]"),
    ],
)
def test_doubtful(audio, representation, message):
    (finding,) = check_audio(audio, representation)
    assert message.replace("\\", "") in finding.text


def test_a_pause_in_one_clip_is_no_silence():
    audio = SPEECH.clone()
    audio[0] = 0
    assert check_audio(audio, "mel") == []


@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 32_000, 44_100])
def test_a_waveform_of_another_rate_is_of_another_length(rate):
    for samples in (3841, 4480, 4480 + 800):
        check_duration(torch.zeros(2, samples), 7)
    with pytest.raises(ValueError, match=r"audio: expected about \(B, 4480\) samples for T = 7 .*check sample rate"):
        check_duration(torch.zeros(2, 4480 * rate // 16_000), 7)
