"""Files of every kind through preparation: a flash and a click that belong together still do, whatever they lay in."""

import os
import random
import shutil
import tempfile
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.media import clicks, onsets

from unisync_loss.data.datasets import list_sources
from unisync_loss.data.face_clips import Outcome, clips_of
from unisync_loss.data.preparation import Task, prepare_one
from unisync_loss.data.store_writer import read_staged
from unisync_loss.video import decoding as streams
from unisync_loss.video.clip import read_clip

FLASH = 1.2  # s on the file's own clock
QUICK = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def write(
    path, stamps, *, size=(96, 96), codec="libx264", audio="pcm_s16le", rate=16000, layout="mono", start=0.0, end=None
):
    """Pictures that turn lighter at 1.2 s, sound that clicks then and lasts from ``start`` to the end."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=QUICK.get(codec, {}))
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 25 if codec.startswith("mpeg") else 1000)
        sound = container.add_stream(audio, rate=rate, layout=layout)
        for stamp in stamps:
            picture = np.full((size[1], size[0], 3), 76 if stamp > FLASH - 1e-6 else 60, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = video.codec_context.time_base
            frame.pts = round(stamp / frame.time_base)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        form, block = sound.codec_context.format.name, sound.codec_context.frame_size or 1024
        samples = clicks((end or stamps[-1]) - start, rate, at=(FLASH - start,))
        samples = samples if form.startswith("flt") else (samples * 32767).astype(np.int16)
        for first in range(0, samples.size - block, block):
            part = np.repeat(samples[None, first : first + block], sound.channels, axis=0)
            if not form.endswith("p"):
                part = part.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=form, layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate) + first
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return bring(path, len(stamps), size)


def bring(path, frames, size=(96, 96)):
    square = np.array([[0.2, 0.2], [0.8, 0.8], [0.5, 0.6]], np.float32) * size
    np.save(path.with_suffix(".landmarks.npy"), np.stack([square] * frames))
    return path


def only(path):
    outcome = Outcome()
    clips = list(clips_of(list_sources([path])[0], outcome))
    assert len(clips) == 1, outcome
    return clips[0].clip


STEADY = np.arange(50) / 25
UNEVEN = np.cumsum(np.r_[0, np.random.default_rng(1).choice([0.017, 0.033, 0.05, 0.12], 45)])
MPEG = {"audio": "mp2", "rate": 44100, "layout": "stereo"}


@pytest.mark.parametrize(
    ("name", "stamps", "options"),
    [
        ("hevc.mp4", STEADY, {"codec": "libx265", "audio": "aac", "rate": 44100, "layout": "stereo"}),
        ("vp9.webm", STEADY, {"codec": "libvpx-vp9", "audio": "libopus", "rate": 48000, "layout": "stereo"}),
        ("mpeg1.mpg", STEADY, {"codec": "mpeg1video", **MPEG}),
        ("mpeg2.mpg", STEADY, {"codec": "mpeg2video", **MPEG}),
        ("mpeg4.avi", STEADY, {"codec": "mpeg4", "rate": 22050}),
        ("h264.mov", STEADY, {"audio": "pcm_s16le", "rate": 48000, "layout": "5.1"}),
        ("slow_sound.mkv", STEADY, {"rate": 8000}),
        ("uneven.mkv", UNEVEN, {}),
        ("uneven.mp4", UNEVEN, {"audio": "aac"}),
        ("sound_first.mkv", STEADY + 0.3, {}),
        ("sound_last.mkv", STEADY, {"start": 0.3}),
        ("late_clock.mkv", STEADY + 1.0, {"start": 0.9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_flash_and_click_stay_together(tmp_path, name, stamps, options):
    clip = only(write(tmp_path / name, stamps, **options))
    click = onsets(clip.waveform)[0]
    light = int(np.flatnonzero(clip.frames.mean((1, 2, 3)) > 68)[0])
    shown = stamps[stamps > FLASH - 1e-6][0] - stamps[0]
    # the encoder mp2 begins 11 ms late and its container does not say so
    assert click == pytest.approx(FLASH - stamps[0], abs=0.015 if name.endswith("mpg") else 0.003)
    assert light == int(np.ceil(shown * 25 - 0.02))
    assert len(clip.frames) == pytest.approx(25 * (stamps[-1] - stamps[0]), abs=3)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_channels_add_up_to_no_more_than_one(tmp_path, layout):
    """The same sound in all channels is as loud in the sum as in each: none is cut off at full scale."""
    write(tmp_path / "a.mkv", STEADY, layout=layout)
    loudest = np.abs(read_clip(tmp_path / "a.mkv").waveform).max()
    assert loudest == pytest.approx(0.8, abs=0.01) if layout != "5.1" else loudest < 0.9


def test_rotated_pictures_stand_upright(tmp_path):
    """A wide picture tagged to be turned is shown high; landmarks brought are those of the picture as shown."""
    path = write(tmp_path / "a.mp4", STEADY, size=(128, 96), audio="aac")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert data[matrix : matrix + 4] == b"\0\1\0\0"
    one, minus = b"\0\1\0\0", b"\xff\xff\0\0"
    data[matrix : matrix + 16] = bytes(4) + one + bytes(4) + minus
    data[matrix + 16 : matrix + 20] = bytes(4)
    path.write_bytes(data)
    mesh = np.tile(np.array([0.5 * 96, 0.6 * 128, -9.6], np.float32), (50, 468, 1))
    mesh[:, 0, :2], mesh[:, 1, :2] = (0.2 * 96, 0.2 * 128), (0.8 * 96, 0.8 * 128)
    np.save(path.with_suffix(".landmarks.npy"), mesh)
    outcome = Outcome()
    (footage,) = clips_of(list_sources([path])[0], outcome)
    assert read_clip(path).frames.shape[1:3] == (128, 96)
    left, top, right, bottom = footage.features["boxes"][20]
    inside = (np.array([0.5 * 96, 0.6 * 128]) - [left, top]) / (right - left)
    assert footage.features["mesh"][20, 2] == pytest.approx([*inside, -9.6 / (right - left)], abs=2e-3)
    assert (left + right) / 2 == pytest.approx(48, abs=6)
    assert (top + bottom) / 2 == pytest.approx(64, abs=6)


def test_8k(tmp_path):
    """Two pictures, each on show for 0.7 s."""
    clip = only(write(tmp_path / "a.mkv", [0, 0.7], size=(7680, 4320), end=1.5))
    assert clip.frames.shape == (35, 192, 192, 3)
    assert onsets(clip.waveform)[0] == pytest.approx(FLASH, abs=0.003)


def prepared(path, folder):
    """What the manifest would say of a file."""
    folder.mkdir(exist_ok=True)
    (source,) = list_sources([path])
    return read_staged(folder, prepare_one(Task(source, str(folder), None, False)))


def test_absurdly_large_pictures_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", STEADY)
    monkeypatch.setattr(streams, "_MOST_PIXELS", 96 * 96 - 1)
    line = prepared(path, tmp_path / "parts")
    assert line["status"] == "error"
    assert "expected frames of at most 9215 pixels, got 9216" in line["reason"]


@contextmanager
def nobody():
    """Without the right of an administrator to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path):
    home = Path(tempfile.mkdtemp())  # tmp_path is closed to others as a whole
    try:
        home.chmod(0o755)
        path = write(home / "a.mkv", STEADY)
        path.chmod(0)
        (home / "parts").mkdir()
        (home / "parts").chmod(0o777)
        with nobody():
            line = prepared(path, home / "parts")
        assert (line["status"], line["clips"]) == ("error", 0)
        assert "a.mkv: not readable" in line["reason"]
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize(("known", "kind"), [(b"V_MPEG4/ISO/AVC", "video"), (b"A_PCM/INT/LIT", "audio")])
def test_an_unknown_codec(tmp_path, known, kind):
    path = write(tmp_path / "a.mkv", STEADY)
    path.write_bytes(path.read_bytes().replace(known, known[:2] + b"WHAT" + known[6:]))
    line = prepared(path, tmp_path / "parts")
    assert (line["status"], line["clips"]) == ("error", 0)
    assert f"unknown {kind} codec" in line["reason"]


def test_a_folder_that_may_not_be_entered():
    home = Path(tempfile.mkdtemp())
    try:
        home.chmod(0o755)
        (home / "closed").mkdir(mode=0)
        with nobody():
            (source,) = list_sources([home])
        assert (source.path, source.problem) == (str(home / "closed"), "cannot be entered (Permission denied)")
    finally:
        shutil.rmtree(home)


KINDS = [
    ("a.mp4", {"audio": "aac"}),
    ("a.mkv", {}),
    ("a.mpg", {"codec": "mpeg2video", **MPEG}),
    ("a.avi", {"codec": "mpeg4"}),
    ("a.webm", {"codec": "libvpx-vp9", "audio": "libopus", "rate": 48000}),
]


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_cut_at_ten_points(tmp_path, name, options):
    """What is left of pictures and sound is used where it is long enough, or the reason is reported."""
    path = write(tmp_path / name, STEADY, **options)
    whole, draw = path.read_bytes(), random.Random(1)
    clips = 0
    for _ in range(10):
        path.write_bytes(whole[: draw.randrange(len(whole))])
        line = prepared(path, tmp_path / "parts")
        assert "defect" not in line["reason"]
        assert (line["status"] == "ok") == bool(line["clips"])
        assert line["clips"] or line["reason"]
        assert all(30 <= record["frames"] <= 50 for record in line["records"])
        clips += line["clips"]
    assert bool(clips) == (name != "a.mp4")  # whose index lies at the end
    assert {path.suffix for path in (tmp_path / "parts").iterdir()} == {".tar", ".json"}  # nothing half-written


@pytest.mark.parametrize(("name", "options"), KINDS[:3])
def test_bytes_destroyed_anywhere(tmp_path, name, options):
    """It is used as far as it goes, or the reason is reported; nothing breaks."""
    path = write(tmp_path / name, STEADY, **options)
    whole, draw = path.read_bytes(), random.Random(0)
    for turn in range(6):
        data = bytearray(whole)
        for _ in range(2**turn):
            at = draw.randrange(len(data))
            data[at : at + 40] = draw.randbytes(len(data[at : at + 40]))
        path.write_bytes(data)
        line = prepared(path, tmp_path / "parts")
        assert "defect" not in line["reason"]
        assert (line["status"] == "ok") == bool(line["clips"])
        assert line["clips"] or line["reason"]
