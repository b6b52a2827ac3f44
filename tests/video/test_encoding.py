"""Encoding of frames and audio."""

import io
import wave

import av
import numpy as np
import pytest
from helpers.media import film

from unisync_loss.video.encoding import encode_frames, encode_wav, to_int16, write_clip


@pytest.mark.parametrize("frames", [film().astype(np.float32), film(size=63), film()[0]])
def test_wrong_frames(tmp_path, frames):
    with pytest.raises(ValueError, match=r"expected \(T, H, W, 3\) uint8 with even H and W, got"):
        write_clip(tmp_path / "a.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_stored_frames_have_a_key_frame_every_12_and_none_that_needs_a_later_one():
    data = encode_frames(film(30))
    assert data == encode_frames(film(30))
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 12, 24]
    assert all(packet.pts == packet.dts for packet in packets)


def test_wav_has_44_bytes_before_its_samples():
    waveform = np.array([-1.5, -1, 0, 0.5, 1], np.float32)
    data = encode_wav(waveform)
    assert np.frombuffer(data[44:], "<i2").tolist() == to_int16(waveform).tolist() == [-32768, -32768, 0, 16384, 32767]
    with wave.open(io.BytesIO(data)) as reader:
        assert reader.getparams()[:4] == (1, 2, 16000, 5)
