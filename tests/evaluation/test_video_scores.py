import copy
import threading
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from helpers.media import mux
from helpers.scoring import whole, write_shifted
from helpers.small_store import write_feature_store

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.data import clips
from unisync_loss.data.clips import clip_features, list_clips, load_clip, stored_mesh
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation.embeddings import share_audio
from unisync_loss.evaluation.video_scores import score_clip, score_video
from unisync_loss.evaluation.video_summary import summarise_video
from unisync_loss.functional import offset_matrix
from unisync_loss.models.pretrained import load_expert
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip
from unisync_loss.video.face_tracking import TrackPiece, track_faces

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def face():
    return read_clip(DEFAULT_CLIP, max_frames=110)


@pytest.fixture(scope="module")
def released():
    return load_expert("mel-rgb")


def test_streaming_equals_all_at_once(tmp_path, expert, face):
    path = write_shifted(tmp_path / "a.mp4", face)
    scores = score_video(path, [expert], finder=whole)
    clip = read_clip(path)
    crops = np.concatenate([p.crops for p in track_faces(iter(clip.frames), whole) if isinstance(p, TrackPiece)])
    with torch.inference_mode():
        visual_embedding = expert.encode_visual(
            rearrange(torch.from_numpy(crops), "t h w c -> 1 t c h w").float() / 255
        )
        audio_embedding = expert.encode_audio(torch.from_numpy(clip.waveform)[None], len(crops))
    expected = offset_matrix(audio_embedding, visual_embedding, 15)[0].numpy()
    (track,) = scores.tracks
    assert track.table.shape == (len(clip.frames) - 4, 31)
    known = ~np.isnan(expected)
    # the file may hold sound after the last frame, which only the stream reads
    assert np.abs(track.table - expected)[known].max() < 1e-4
    assert np.isnan(track.table[0, :15]).all()
    assert scores.seconds == pytest.approx(len(face.frames) / 25)


def test_several_experts_give_the_mean_of_their_probabilities(tmp_path, expert, released, face):
    path = write_shifted(tmp_path / "a.mp4", face)
    random = UniSyncExpert(UniSyncConfig()).eval()
    (one,), (other,) = (score_video(path, [each], finder=whole).tracks for each in (random, released))
    (both,) = score_video(path, [random, released], finder=whole).tracks
    assert np.nanmax(np.abs(one.table - other.table)) > 0.05
    np.testing.assert_allclose(both.table, (one.table + other.table) / 2, atol=1e-6)
    np.testing.assert_array_equal(both.level, one.level)
    with pytest.raises(ValueError, match=r"embeddings of one size, got \[16, 512\]"):
        score_video(path, [expert, released], finder=whole)


def test_experts_that_share_an_audio_tower_embed_the_audio_once(tmp_path, released, face):
    path = write_shifted(tmp_path / "a.mp4", face)
    same, other = copy.deepcopy(released), copy.deepcopy(released)
    torch.nn.init.normal_(next(iter(other.audio_tower.parameters())))
    assert share_audio(released, same)
    assert not share_audio(released, other)
    same.prepare_audio = None  # would be called
    (both,), (one,) = (score_video(path, e, finder=whole).tracks for e in ([released, same], [released]))
    np.testing.assert_allclose(both.table, one.table, atol=1e-6)


@pytest.mark.parametrize("shift", [-6, 5])
def test_late_audio_moves_the_offset(tmp_path, released, face, shift):
    found = [
        summarise_video("x", score_video(write_shifted(tmp_path / "a.mp4", face, late), [released], finder=whole), 0.5)[
            "tracks"
        ][0]
        for late in (0, shift)
    ]
    assert found[1]["offset_frames"] - found[0]["offset_frames"] == shift
    assert found[1]["offset_ms"] == 40 * found[1]["offset_frames"]
    assert found[0]["probability_mean"] > found[1]["probability_mean"] + 0.1
    assert found[1]["probability_mean_at_offset"] == pytest.approx(found[0]["probability_mean_at_offset"], abs=0.05)


def test_two_scenes(tmp_path, expert, face):
    inverted = 255 - face.frames[:40]
    write_clip(tmp_path / "a.mp4", np.concatenate([face.frames[:50], inverted]), face.waveform[: 90 * 640])
    tracks = score_video(tmp_path / "a.mp4", [expert], finder=whole).tracks
    assert [(track.start, len(track.table)) for track in tracks] == [(0, 46), (50, 36)]
    assert not np.isnan(tracks[1].table[0, :15]).any()  # the sound before the cut is there to compare with


@pytest.mark.parametrize(
    ("frames", "level", "finder", "message"),
    [
        (60, 1.0, lambda frame, number: [], "expected a face visible for 1.2 s, found none"),
        (60, 0.0, whole, "expected speech, got silent audio"),
        (25, 1.0, whole, "expected at least 1.2 s of video, got 1 s"),
        (60, 1.0, lambda frame, number: whole(frame) * 0.1, r"found none \(a face of .* pixels"),
    ],
)
def test_what_cannot_be_scored_says_why(tmp_path, expert, face, frames, level, finder, message):
    write_clip(tmp_path / "a.mp4", face.frames[:frames], level * face.waveform[: frames * 640])
    with pytest.raises(ValueError, match=message):
        score_video(tmp_path / "a.mp4", [expert], finder=finder)


def test_a_truncated_file_is_scored_as_far_as_it_goes_and_says_so(tmp_path, expert, face):
    mux(tmp_path / "whole.mkv", face.frames, face.waveform)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: round(0.7 * len(content))])
    scores = score_video(tmp_path / "a.mkv", [expert], finder=whole)
    assert 2 < scores.seconds < 3.9
    assert len(scores.tracks[0].table) == round(25 * scores.seconds) - 4
    assert scores.notes == [f"only {scores.seconds:.1f} of 4.4 s could be decoded"]


def test_of_three_people_the_one_who_speaks_is_named(tmp_path, released, face):
    frames = face.frames[:70]
    people = [np.repeat(frames[:1], 70, axis=0), frames, np.roll(frames[::-1], 20, axis=0)]
    write_clip(tmp_path / "a.mp4", np.concatenate(people, axis=2), face.waveform[: 70 * 640], crf=10)

    def three(frame, number):
        return np.concatenate([np.add(whole(frame[:, :192]), [left, 0, left, 0]) for left in (0, 192, 384)])

    result = summarise_video("a", score_video(tmp_path / "a.mp4", [released], finder=three), released.config.threshold)
    assert [track["track"] for track in result["tracks"]] == [0, 1, 2]
    assert result["speaker_track"] == 1
    assert result["tracks"][1]["speaking_share"] > 0.6
    assert result["tracks"][1]["confidence"] > max(result["tracks"][i]["confidence"] for i in (0, 2))


def test_errors_of_a_stage_arrive_and_no_thread_is_left(tmp_path, expert, face):
    def broken(frame, number):
        raise ValueError("the finder broke")

    path = write_shifted(tmp_path / "a.mp4", face)
    before = threading.active_count()
    with pytest.raises(ValueError, match="the finder broke"):
        score_video(path, [expert], finder=broken)
    assert threading.active_count() == before


def test_a_clip_of_a_store_is_scored_by_its_features(tmp_path, face):
    """Three frames early, so that the features of the first three are not used."""
    short = face._replace(frames=face.frames[:40], waveform=face.waveform[: 40 * 640])
    made = {"3dmm": lambda rng, frames: rng.normal(size=(frames, 64)).astype(np.float32)}
    (listed,) = list_clips(write_feature_store(tmp_path / "store", {"a/s0/0": short}, **made))
    entry, expert = replace(listed, offset=-3.0), UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8)).eval()
    scores = score_clip(entry, [expert])
    with torch.inference_mode():
        visual = expert.encode_visual(torch.from_numpy(clip_features(entry, "3dmm")[None, 3:]))
        audio = expert.encode_audio(torch.from_numpy(load_clip(entry).waveform)[None], 37)
    (track,) = scores.tracks
    assert np.allclose(track.table, offset_matrix(audio, visual, 15)[0].numpy(), atol=1e-5, equal_nan=True)
    assert np.nanstd(track.table) > 1e-3
    assert track.level.shape == (33,)
    assert [mouth.shape for _, mouth in track.mouths] == 37 * [(88, 88, 3)]
    assert scores.seconds == pytest.approx(37 / 25)


def test_a_clip_of_a_store_is_scored_by_its_mesh(tmp_path, face, monkeypatch):
    monkeypatch.setattr(clips, "face_mesh", lambda *given, **named: pytest.fail("measured again"))
    short = face._replace(frames=face.frames[:40], waveform=face.waveform[: 40 * 640])
    made = {"mesh": lambda rng, frames: rng.uniform(size=(frames, 468, 3)).astype(np.float16)}
    (entry,) = list_clips(write_feature_store(tmp_path / "store", {"a/s0/0": short}, **made))
    assert stored_mesh(entry) is not None
    expert = UniSyncExpert(UniSyncConfig(visual="landmarks", visual_features=136, embedding=8)).eval()
    assert np.nanstd(score_clip(entry, [expert]).tracks[0].table) > 1e-3


def test_what_cannot_be_made_from_video_is_refused_before_any_work(tmp_path):
    expert = UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8))
    with pytest.raises(ValueError, match="expected the 40 coefficients that are made from video"):
        score_video(tmp_path / "gone.mp4", [expert])


def test_audio_that_ends_early_is_noted_and_only_what_has_sound_is_scored(tmp_path, expert, face):
    mux(tmp_path / "a.mkv", face.frames, face.waveform[: 50 * 640])
    scores = score_video(tmp_path / "a.mkv", [expert], finder=whole)
    assert scores.notes == ["the audio ends at 2.0 s: the last 2.4 s are not scored"]
    known = ~np.isnan(scores.tracks[0].table[:, 15])
    assert known[:46].all()
    assert not known[46:].any()


@pytest.mark.parametrize("isolated", [False, True])
def test_the_voice_of_another_file(tmp_path, expert, face, isolated):
    """As if it were the sound of the video; also where the video has none."""
    write_shifted(tmp_path / "a.mp4", face)
    mux(tmp_path / "mute.mkv", face.frames, np.zeros(face.waveform.size, np.float32))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((read_clip(tmp_path / "a.mp4").waveform * 32768).astype("<i2").tobytes())
    own = score_video(tmp_path / "a.mp4", [expert], finder=whole).tracks[0].table
    for audio in ("a.wav", "a.mp4"):
        given = score_video(tmp_path / "a.mp4", [expert], finder=whole, audio=tmp_path / audio, isolated=isolated)
        assert np.nanmax(np.abs(given.tracks[0].table - own)) < 1e-3
        assert given.notes == []
    with pytest.raises(ValueError, match="silent audio"):
        score_video(tmp_path / "mute.mkv", [expert], finder=whole)
    assert score_video(tmp_path / "mute.mkv", [expert], finder=whole, audio=tmp_path / "a.wav").tracks[0].has_scores
