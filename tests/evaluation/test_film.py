import numpy as np
import pytest
from helpers.scoring import track, write_shifted

from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation.film import with_curve, write_film
from unisync_loss.evaluation.video_scores import VideoScores
from unisync_loss.video.clip import read_clip

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def face():
    return read_clip(DEFAULT_CLIP, max_frames=110)


def test_curve_below_the_picture_and_the_sound_beside_it(tmp_path, face):
    pytest.importorskip("matplotlib")
    path = write_shifted(tmp_path / "a.mp4", face)
    high, low = (track(np.full(106, value)) for value in (0.9, 0.1))
    rows, reported = [], []
    for number, scores in enumerate((high, low)):
        out = tmp_path / f"film{number}.mp4"
        write_film(path, VideoScores([scores], [], 4.4, []), 0.5, out, lambda *done: reported.append(done))
        made = read_clip(out)
        assert made.frames.shape == (110, 192 + 120, 192, 3)
        assert np.abs(made.frames[:, :192].astype(int) - read_clip(path).frames).mean() < 3
        assert np.corrcoef(made.waveform, face.waveform[: made.waveform.size])[0, 1] > 0.9
        red = (made.frames[..., 0].astype(int) - made.frames[..., 2])[:, 200:].sum(1).argmax(1)  # the cursor
        assert red == pytest.approx(34 + (192 - 34 - 12) * np.arange(110) / 250, abs=2.5)
        strip = made.frames[100, 192:, 40:80].astype(int)
        rows.append(np.median(np.argwhere(strip[..., 2] - strip[..., 0] > 60)[:, 0]))
    assert rows[0] < rows[1] - 30  # a probability of 0.9 lies higher
    assert reported == 2 * [(tick / 25, 4.4) for tick in range(1, 111)]
    assert not list(tmp_path.glob(".*"))


def test_pages_without_a_face_are_empty(tmp_path):
    pytest.importorskip("matplotlib")
    frames = (np.zeros((65, 65, 3), np.uint8) for _ in range(251))
    shown = list(with_curve(frames, VideoScores([track(np.full(20, 0.5))], [], 10.04, []), 0.5))
    assert {picture.shape for picture in shown} == {(64 + 120, 64, 3)}
