"""Audio by time stamps."""

import numpy as np
import pytest
from helpers.media import mux

from unisync_loss.video.audio_decoding import AudioReader, stream_audio
from unisync_loss.video.decoding import open_media


def test_sound_is_read_by_time_and_let_go():
    blocks = (np.full(16000, second, np.float32) for second in range(200))
    sound = AudioReader(blocks)
    assert sound.read(24000, 40000).tolist() == [1.0] * 8000 + [2.0] * 8000
    assert set(sound.read(150 * 16000, 151 * 16000)) == {150.0}
    assert len(sound._held) < 70
    assert sound.read(199 * 16000, 300 * 16000).size == 16000


def test_audio_that_starts_after_days_is_refused(tmp_path):
    mux(tmp_path / "a.mkv", np.zeros((5, 64, 64, 3), np.uint8), np.zeros(3200, np.float32), audio_start=90000.0)
    with (
        open_media(tmp_path / "a.mkv") as container,
        pytest.raises(ValueError, match="expected time stamps of at most"),
    ):
        next(stream_audio(container, 0.0))
