"""Arrays of audio features that stand for the waveforms they were made of."""

import os
import shutil

import numpy as np
import pytest
import torch
from helpers.media import clicks, film, mux, onsets

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.data.audio_features import audio_features, place_files, write_features
from unisync_loss.video.clip import read_audio
from unisync_loss.video.encoding import encode_wav

SECONDS = 1.6  # 40 frames


def sound(seed):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, int(16000 * SECONDS)).astype(np.float32)


@pytest.fixture
def recordings(tmp_path):
    root = tmp_path / "in"
    for seed, name in enumerate(("ann/1.wav", "ben/1.wav")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(encode_wav(sound(seed)))
    mux(root / "ben" / "2.mkv", film(40), clicks(SECONDS))
    return root


@pytest.fixture(params=["mel", "hubert", "whisper"])
def any_expert(request, audio_models):
    return UniSyncExpert(UniSyncConfig(audio=request.param, embedding=8, **audio_models[request.param])).eval()


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_the_loss_takes_the_arrays_as_it_takes_waveforms(any_expert, recordings, tmp_path):
    report = write_features([recordings], any_expert, "tiny", tmp_path / "out")
    assert (report["files"], report["written"], report["kept"], report["skipped"]) == (3, 3, 0, [])
    assert report["seconds"] == pytest.approx(3 * SECONDS, abs=0.1)
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in stamps(tmp_path / "out")) == [
        "ann/1.npy",
        "ben/1.npy",
        "ben/2.npy",
    ]
    array = np.load(tmp_path / "out" / "ann" / "1.npy")
    mel = any_expert.config.audio == "mel"
    assert (array.shape, array.dtype) == ((80, 129) if mel else (80, 32), np.float32)
    loss, video = UniSyncLoss(any_expert), torch.rand(1, 40, 3, 32, 32)
    waveform = torch.from_numpy(read_audio(recordings / "ann" / "1.wav"))
    assert torch.allclose(loss(video, torch.from_numpy(array)[None]), loss(video, waveform[None]), atol=1e-6)


def test_audio_of_a_video_starts_with_its_first_frame(tmp_path):
    mux(tmp_path / "late.mkv", film(), clicks(1.5), audio_start=0.4)
    assert onsets(read_audio(tmp_path / "late.mkv")) == pytest.approx([0.9, 1.6], abs=0.003)
    (tmp_path / "a.wav").write_bytes(encode_wav(clicks(1.5)))
    assert onsets(read_audio(tmp_path / "a.wav")) == pytest.approx([0.5, 1.2], abs=0.001)


def test_a_second_run_continues(expert, recordings, tmp_path):
    out = tmp_path / "out"
    write_features([recordings], expert, "tiny", out)
    first = stamps(out)
    (out / "ben" / "1.npy").unlink()  # not reached by a killed run
    changed = recordings / "ann" / "1.wav"
    changed.write_bytes(encode_wav(sound(7)))
    os.utime(changed, ns=(1, first[out / "ann" / "1.npy"] + 1))
    report = write_features([recordings], expert, "tiny", out)
    assert (report["written"], report["kept"]) == (2, 1)
    assert stamps(out)[out / "ben" / "2.npy"] == first[out / "ben" / "2.npy"]
    assert np.array_equal(np.load(out / "ann" / "1.npy"), audio_features(expert, read_audio(changed)))


def test_an_interrupted_write_leaves_nothing(expert, recordings, tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        write_features([recordings], expert, "tiny", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["features.json"]


def test_names_that_collide(recordings, tmp_path):
    with pytest.raises(ValueError, match=r"1\.npy: expected one file of that name, got .*ann.* and .*ben"):
        place_files([recordings / "ann", recordings / "ben"], tmp_path)
    shutil.copy(recordings / "ben" / "2.mkv", recordings / "ben" / "1.mkv")
    with pytest.raises(ValueError, match=r"1\.npy: expected one file of that name, got .*1\.mkv and .*1\.wav"):
        place_files([recordings], tmp_path)
    found = place_files([recordings, recordings / "ann"], tmp_path, "wav")
    assert {target.relative_to(tmp_path).as_posix() for target in found} == {"ann/1.npy", "ben/1.npy", "1.npy"}
    assert place_files([recordings / "ann", recordings / "ann" / "1.wav"], tmp_path) == {
        tmp_path / "1.npy": recordings / "ann" / "1.wav"
    }


def test_a_folder_holds_features_of_one_kind(expert, any_expert, recordings, tmp_path):
    write_features([recordings / "ann"], any_expert, "tiny", tmp_path / "out")
    if any_expert.config.audio == "mel":
        return
    with pytest.raises(ValueError, match=r"out: expected an empty folder or one of the same features, .*'mel'.*got"):
        write_features([recordings / "ann"], expert, "other", tmp_path / "out")
    (tmp_path / "out" / "features.json").write_text("{")
    with pytest.raises(ValueError, match="expected a JSON object"):
        write_features([recordings / "ann"], expert, "other", tmp_path / "out")


def test_a_model_that_is_missing_is_no_fault_of_a_file(recordings, tmp_path):
    config = UniSyncConfig(audio="whisper", audio_features=8, audio_model=str(tmp_path / "gone"), embedding=8)
    with pytest.raises(ValueError, match=r"Whisper .*gone"):
        write_features([recordings], UniSyncExpert(config).eval(), "tiny", tmp_path / "out")
