"""Clips of single inputs: time, tracks, given faces and features."""

import av
import numpy as np
import pytest
from helpers.media import clicks, mux, onsets
from helpers.videos import bring, one, video

from unisync_loss.data.preparation import prepare


@pytest.mark.parametrize(
    ("fps", "sample_rate", "start"), [(25, 16000, 0.0), (30, 44100, 0.176), (50, 48000, 0.0), (15, 8000, 0.04)]
)
def test_picture_and_sound_keep_their_time(tmp_path, fps, sample_rate, start):
    """A flash of light and a click at the same time stamp are so in the clip."""
    frames = np.full((2 * fps, 96, 96, 3), 60, np.uint8)
    flash = round(1.2 * fps)
    frames[flash:] = 76  # less than a scene cut
    at = flash / fps - start
    mux(
        tmp_path / "a.mkv",
        frames,
        clicks(2 - start, sample_rate, at=(at,)),
        fps=fps,
        sample_rate=sample_rate,
        audio_start=start,
    )
    bring(tmp_path / "a.mkv", 2 * fps)
    clips, _ = one(tmp_path / "a.mkv")
    (face_clip,) = clips
    click = onsets(face_clip.clip.waveform)[0]
    light = int(np.flatnonzero(face_clip.clip.frames.mean((1, 2, 3)) > 68)[0])
    assert click == pytest.approx(flash / fps, abs=0.002)
    assert light == int(np.ceil(flash / fps * 25 - 1e-3))


def test_long_tracks_become_clips_without_a_hole(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 540 * 640).astype(np.float32)
    video(tmp_path / "a.mkv", 540, sound=noise)
    clips, _ = one(tmp_path / "a.mkv")
    assert [(face_clip.facts["start"], face_clip.facts["frames"]) for face_clip in clips] == [
        (0, 250),
        (10, 250),
        (20, 40),
    ]
    waveform = np.concatenate([face_clip.clip.waveform for face_clip in clips])
    assert np.abs(waveform - noise).max() < 1e-4


def test_numbered_pictures_with_gaps(tmp_path, monkeypatch):
    home = tmp_path / "pre" / "d" / "v"
    home.mkdir(parents=True)
    for number in [*range(40), *range(50, 55), *range(60, 100)]:
        with av.open(str(home / f"{number}.jpg"), "w", format="image2") as container:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 80, 96, "yuvj420p"
            frame = av.VideoFrame.from_ndarray(np.full((96, 80, 3), 2 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
            container.mux(stream.encode(None))
    with av.open(str(home / "audio.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100, layout="stereo")
        sound = (clicks(4, 44100, at=(0.5, 3.0)) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(sound, 2)[None], format="s16", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
    monkeypatch.setattr(
        "unisync_loss.data.face_clips.face_mesh", lambda frames, *, depth: np.zeros((len(frames), 468, 3), np.float32)
    )
    clips, outcome = one(tmp_path / "pre")
    assert [(face_clip.facts["start"], face_clip.facts["frames"]) for face_clip in clips] == [(0.0, 40), (2.4, 40)]
    assert [drop.split(":")[0] for drop in outcome.dropped] == ["2.0 s"]
    assert onsets(clips[1].clip.waveform) == pytest.approx([0.6], abs=0.002)
    assert clips[1].clip.frames[10].mean() == pytest.approx(140, abs=4)


def test_a_provider_adds_features(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def brightness(frames, waveform):\n    return {'light': frames.mean((1, 2, 3)).astype(np.float32)}\n"
        "def short(frames, waveform):\n    return {'light': np.zeros(3)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    video(tmp_path / "in" / "a.mkv")
    clips, _ = one(tmp_path / "in", provider="mine:brightness")
    assert clips[0].features["light"] == pytest.approx(clips[0].clip.frames.mean((1, 2, 3)), abs=1e-3)
    with pytest.raises(ValueError, match="expected 50 rows of light"):
        one(tmp_path / "in", provider="mine:short")
    with pytest.raises(ValueError, match="module:function"):
        prepare([tmp_path / "in"], tmp_path / "store", provider="mine:gone")
    assert not (tmp_path / "store").exists()


def test_a_provider_may_bring_the_landmarks(tmp_path, monkeypatch):
    (tmp_path / "marks.py").write_text(
        "import numpy as np\n"
        "def full(frames, waveform):\n    return {'landmarks': np.full((len(frames), 478, 3), 0.25)}\n"
        "def blind(frames, waveform):\n    return {'landmarks': np.full((len(frames), 6, 2), np.nan)}\n"
        "def flat(frames, waveform):\n    return {'landmarks': np.zeros((len(frames), 12))}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("unisync_loss.data.face_clips.face_mesh", None)  # MediaPipe is not asked
    path = video(tmp_path / "a.mkv", boxes=False)
    np.save(path.with_suffix(".boxes.npy"), np.tile(np.array([20, 20, 76, 76], np.float32), (50, 1)))
    clips, _ = one(path, provider="marks:full")
    assert clips[0].features["mesh"].shape == (50, 468, 3)
    assert (clips[0].features["mesh"] == 0.25).all()
    assert one(path, provider="marks:blind")[1].dropped == ["0.0 s: landmarks found in 0% of the frames, expected 80%"]
    with pytest.raises(ValueError, match=r"expected landmarks \(50, P, 2 or 3\), got \(50, 12\)"):
        one(path, provider="marks:flat")
