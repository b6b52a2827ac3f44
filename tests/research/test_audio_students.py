"""Audio students on synthetic speech, with a tiny random expert on a tiny random Whisper as their teacher."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from safetensors.torch import load_file
from torch import nn

from research.audio_students.augment import augment_waveforms, coloured_noise
from research.audio_students.crops import CropDrawer, Places, hold_out
from research.audio_students.from_whisper import build_hubert
from research.audio_students.losses import WindowTargets, matching_terms, regression_loss
from research.audio_students.saving import save_hubert
from research.audio_students.speech import Speech, list_speech, load_speech
from research.audio_students.students import HubertStudent, MelStudent, load_hubert, student_config
from research.audio_students.targets import Targets, Teacher
from research.audio_students.training import StudentConfig, build_student, copy_fitting, train_student
from research.audio_students.validation import agreement, summary
from tools.synthetic.voice import random_sentence, random_voice, synthesize_voice
from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, load_expert, save_pretrained
from unisync_loss.representations import HubertEncoder, WhisperEncoder, mel_spectrogram
from unisync_loss.video.encoding import encode_wav

CPU = torch.device("cpu")


def quiet(line):
    pass


@pytest.fixture(scope="module")
def waveforms():
    """Sentences of four voices."""
    sentences = []
    for number in range(4):
        rng = np.random.default_rng([3, number])
        voice = random_voice(rng)
        sentences.append(synthesize_voice(rng, voice, random_sentence(rng, voice, 3.0)))
    return sentences


@pytest.fixture(scope="module")
def folder(waveforms, tmp_path_factory):
    """Four voices, a recording each."""
    root = tmp_path_factory.mktemp("speech")
    for number, waveform in enumerate(waveforms):
        path = root / "drawn" / f"s{number}" / "0.wav"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_wav(waveform))
    return root


@pytest.fixture(scope="module")
def speech(folder, tmp_path_factory):
    return load_speech(list_speech(folder), tmp_path_factory.mktemp("decoded"), quiet)


@pytest.fixture(scope="module")
def teacher(tiny_whisper, tmp_path_factory):
    """Random expert on the second of the three layers of a random Whisper."""
    torch.manual_seed(0)
    config = UniSyncConfig(
        audio="whisper",
        visual="landmarks",
        audio_features=32,
        embedding=16,
        audio_model=str(tiny_whisper),
        audio_layer=2,
    )
    expert = UniSyncExpert(config)
    with torch.no_grad():  # the batch norms take statistics as in a training, so that embeddings differ
        for _ in range(20):
            expert.encode_audio(torch.randn(2, 32000) / 10, 50)
    path = tmp_path_factory.mktemp("teacher")
    save_pretrained(expert, path)
    return str(path)


def config_of(teacher, folder, out, **changes):
    values = {"student": "mel", "steps": 16, "batch_seconds": 4, "val_every": 8, "learning_rate": 4e-3}
    places = {"data": (str(folder),), "out": str(out), "cache": str(folder.parent / "cache")}
    return StudentConfig(teacher=teacher, **places, **(values | changes))


@pytest.fixture(scope="module", params=["mel", "hubert"])
def run(request, teacher, folder, tiny_whisper, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    torch.manual_seed(0)
    whisper = WhisperEncoder.from_pretrained(tiny_whisper, layer=2).network
    save_hubert(build_hubert(whisper, 2, 48), out.parent / "start")
    hubert = {"hubert": str(out.parent / "start"), "steps": 96, "val_every": 24, "learning_rate": 1e-3}
    changes = {"mel": {}, "hubert": hubert}[request.param]
    train_student(config_of(teacher, folder, out, student=request.param, **changes), resume=False, log=quiet)
    return out


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_hubert_has_the_names_that_all_versions_read(tiny_whisper, tmp_path):
    from transformers import HubertModel

    hubert = build_hubert(WhisperEncoder.from_pretrained(tiny_whisper, layer=2).network, 2, 48)
    save_hubert(hubert, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {f"encoder.pos_conv_embed.conv.weight_{letter}" for letter in "gv"} < names
    waveform = torch.randn(1, 6400)
    with torch.no_grad():
        expected = hubert.eval().half().float()(waveform).last_hidden_state
    assert torch.equal(HubertModel.from_pretrained(tmp_path).float()(waveform).last_hidden_state, expected)


class TestRun:
    def test_loss_falls(self, run):
        steps = [row for row in log_of(run) if "loss" in row]
        term = "regression" if "regression" in steps[0] else "distance"
        assert steps[-1][term] < steps[0][term] - 0.02

    def test_approaches_the_teacher_on_unknown_speakers(self, run):
        first, *_, last = (row for row in log_of(run) if "held_out_agreement" in row)
        if (
            "held_out_regression" in last
        ):  # a HuBERT of random weights needs more steps than these to tell windows apart
            assert last["held_out_regression"] < first["held_out_regression"] - 0.02
            return
        # above that of another window: both fall together while the student learns that windows differ
        above = [row["held_out_agreement"] - row["agreement_elsewhere"] for row in (first, last)]
        assert above[1] > above[0] + 0.02

    def test_expert_is_the_teacher_with_the_audio_tower_of_the_student(self, run, teacher, waveforms):
        own, expert = load_expert(teacher), load_expert(run / "expert")
        video, wave = torch.rand(1, 10, 68, 2), torch.from_numpy(waveforms[0])[None, : 10 * 640]
        state = load_file(run / "state.safetensors")
        with torch.no_grad():
            assert torch.equal(expert.encode_visual(video), own.encode_visual(video))
            assert expert.encode_audio(wave, 10).shape == own.encode_audio(wave, 10).shape
        for key, value in expert.audio_tower.state_dict().items():
            assert torch.equal(value, state[f"average.tower.{key}"])

    def test_expert_serves_a_loss(self, run, waveforms):
        video = torch.rand(1, 7, 68, 2, requires_grad=True)
        UniSyncLoss(load_expert(run / "expert"))(video, torch.from_numpy(waveforms[1])[None, : 7 * 640]).backward()
        assert video.grad.abs().sum() > 0

    def test_refuses_an_existing_run(self, run, teacher, folder):
        with pytest.raises(FileExistsError, match="--resume"):
            train_student(config_of(teacher, folder, run), resume=False, log=quiet)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_refuses_a_device_that_is_not_there(self, teacher, folder, tmp_path):
        with pytest.raises(ValueError, match="no CUDA device"):
            train_student(config_of(teacher, folder, tmp_path / "run", device="cuda"), resume=False, log=quiet)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("student", ["mel", "hubert"])
def test_resumed_equals_undisturbed(student, teacher, folder, tiny_hubert, tmp_path):
    few = {"student": student, "steps": 6, "val_every": 3, "hubert": str(tiny_hubert) if student == "hubert" else None}
    torch.manual_seed(5)  # the state of the global generator must not matter
    train_student(config_of(teacher, folder, tmp_path / "whole", **few), resume=False, log=quiet)

    def interrupt(line):
        if line.startswith("step 3 "):
            os.kill(os.getpid(), signal.SIGTERM)

    config = config_of(teacher, folder, tmp_path / "run", **few)
    train_student(config, resume=False, log=interrupt)
    assert log_of(tmp_path / "run")[-1]["step"] == 3
    train_student(config, resume=True, log=quiet)
    before = log_of(tmp_path / "run")
    train_student(config, resume=True, log=quiet)  # what is finished stays as it is
    assert log_of(tmp_path / "run") == before
    own, undisturbed = (load_file(tmp_path / name / "state.safetensors") for name in ("run", "whole"))
    assert own.keys() == undisturbed.keys()
    assert all(torch.equal(own[key], undisturbed[key]) for key in own)


def test_hubert_folder_is_the_averaged_network(teacher, folder, tiny_hubert, waveforms, tmp_path):
    """Encoded by our own path, and by transformers from the weights of the state."""
    from transformers import HubertModel

    config = config_of(teacher, folder, tmp_path, student="hubert", hubert=str(tiny_hubert), steps=2, val_every=2)
    train_student(config, resume=False, log=quiet)
    wave = torch.from_numpy(waveforms[0])[None]
    model = HubertModel(load_hubert(str(tiny_hubert)).config).eval()
    prefix = "average.hubert."
    state = load_file(tmp_path / "state.safetensors")
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    with torch.no_grad():
        truth = model((wave - wave.mean()) / wave.std(correction=0)).last_hidden_state
    found = HubertEncoder.from_pretrained(tmp_path / "hubert")(wave)[:, : truth.shape[1]]
    assert torch.allclose(found, truth, atol=2e-2)  # float16 weights
    assert truth.std() > 0.1


class TestConfig:
    def test_hubert_starts_from_one(self, teacher, folder, tmp_path):
        for start, got in ({}, "none"), ({"init": "hubert-rgb", "hubert": "hubert-small"}, "both"):
            with pytest.raises(ValueError, match=f"expected either init or hubert .* got {got}"):
                config_of(teacher, folder, tmp_path, student="hubert", **start)
        with pytest.raises(ValueError, match="hubert: expected none for a student on mel, got hubert-small"):
            config_of(teacher, folder, tmp_path, hubert="hubert-small")

    def test_the_command_names_what_is_wrong(self, folder, tmp_path):
        options = {"--teacher": "mel-rgb", "--student": "mel", "--data": str(folder), "--out": str(tmp_path)}
        command = [
            sys.executable,
            "-m",
            "research.audio_students",
            *(word for pair in options.items() for word in pair),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert done.stderr.startswith("audio_students: teacher: expected an expert on whisper, got mel-rgb on mel")


class TestStart:
    def test_mel(self, teacher, folder, tmp_path):
        config = load_expert(teacher).config
        other = UniSyncExpert(student_config(config, "mel"))
        save_pretrained(other, tmp_path)
        student = build_student(config_of(teacher, folder, tmp_path, init=str(tmp_path)), Teacher(teacher, CPU))
        weights = student.tower.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in other.audio_tower.state_dict().items())

    def test_hubert_gives_the_embeddings_of_the_expert(self, teacher, folder, tiny_hubert, waveforms, tmp_path):
        first = config_of(teacher, folder, tmp_path, student="hubert", hubert=str(tiny_hubert), steps=1)
        train_student(first, resume=False, log=quiet)
        config = config_of(teacher, folder, tmp_path, student="hubert", init=str(tmp_path / "expert"))
        student = build_student(config, Teacher(teacher, CPU)).eval()
        wave = torch.from_numpy(waveforms[0])[None, : 25 * 640]
        with torch.no_grad():
            expected = load_expert(tmp_path / "expert").encode_audio(wave, 25)
            assert torch.allclose(student(wave), expected, atol=1e-4)
        assert expected.std() > 0.01

    def test_hubert_takes_the_rest_of_the_tower_from_the_teacher(self, teacher, folder, tiny_hubert, tmp_path):
        config = config_of(teacher, folder, tmp_path, student="hubert", hubert=str(tiny_hubert))
        tower = build_student(config, Teacher(teacher, CPU)).tower.state_dict()
        own = load_expert(teacher).audio_tower.state_dict()
        assert {key for key in own if torch.equal(own[key], tower[key])} == own.keys()  # features of the same width
        copy_fitting(student := nn.Linear(3, 2), nn.Linear(4, 2))
        assert student.weight.shape == (2, 3)

    def test_of_other_features(self, teacher, folder, tmp_path):
        with pytest.raises(ValueError, match=r"init: expected an expert on mel, got .* on whisper"):
            build_student(config_of(teacher, folder, tmp_path, init=teacher), Teacher(teacher, CPU))


class TestTargets:
    def test_are_the_teachers_own_of_the_whole_recording(self, speech, teacher, tmp_path, monkeypatch):
        monkeypatch.setattr("research.audio_students.targets.STATES", (1, 2, 3))
        targets = Targets(tmp_path, speech, Teacher(teacher, CPU), states=True, log=quiet)
        expert = load_expert(teacher)
        encoders = [WhisperEncoder.from_pretrained(expert.config.audio_model, layer=layer) for layer in (1, 2)]
        for index in range(4):
            frames, wave = int(speech.frames[index]), speech.waveform(index)[None]
            with torch.no_grad():
                embedding = expert.encode_audio(wave, frames)[0]
                states = torch.stack([encoder(wave)[0] for encoder in encoders], dim=1)
            whole, part = Places(np.array([index]), np.array([0]), frames), Places(np.array([index]), np.array([7]), 12)
            assert torch.allclose(targets.windows(whole)[0], embedding, atol=1e-2)
            assert torch.equal(targets.windows(part)[0], targets.windows(whole)[0, 7:15])
            assert torch.allclose(targets.states(whole)[0], states, atol=1e-2)
            assert torch.equal(targets.states(part)[0], targets.states(whole)[0, 14:38])
            assert embedding.std() > 0.1

    def test_computed_once(self, speech, teacher, tmp_path, monkeypatch):
        source = Teacher(teacher, CPU)
        Targets(tmp_path, speech, source, states=True, log=quiet)
        files = sorted(tmp_path.iterdir())
        assert len(files) == 8
        files[0].unlink()
        calls, encode = [], source.encode
        monkeypatch.setattr(source, "encode", lambda waveform: calls.append(1) or encode(waveform))
        Targets(tmp_path, speech, source, states=True, log=quiet)
        assert len(calls) == 1
        assert sorted(tmp_path.iterdir()) == files

    def test_another_teacher_has_files_of_its_own(self, speech, teacher, tmp_path):
        first = Teacher(teacher, CPU)
        expert = load_expert(teacher)
        torch.nn.init.normal_(next(expert.audio_tower.parameters()))
        save_pretrained(expert, tmp_path / "other")
        second = Teacher(str(tmp_path / "other"), CPU)
        assert second.identity != first.identity
        for source in (first, second):
            Targets(tmp_path / "targets", speech, source, states=True, log=quiet)
        names = [path.name for path in (tmp_path / "targets").iterdir()]
        assert sum(name.endswith(".windows.npy") for name in names) == 8
        assert sum(name.endswith(".states.npy") for name in names) == 4  # of the same Whisper

    def test_moments(self, speech, teacher, tmp_path):
        targets = Targets(tmp_path, speech, Teacher(teacher, CPU), states=True, log=quiet)
        mean, deviation = targets.moments(np.array([0, 2]))
        frames = [Places(np.array([i]), np.array([0]), int(speech.frames[i])) for i in (0, 2)]
        states = torch.cat([targets.states(places)[0] for places in frames])
        assert torch.allclose(mean, states.mean(0), atol=1e-4)
        assert torch.allclose(deviation, states.std(0, correction=0), atol=1e-4)


class TestStudents:
    def test_mel_of_the_window_only(self, teacher, waveforms):
        student = MelStudent(load_expert(teacher).config).eval()
        wave = torch.from_numpy(waveforms[0])[None, : 40 * 640]
        changed = wave.clone()
        changed[:, 26 * 640 :] = 0
        with torch.no_grad():
            own, other = student(wave), student(changed)
        assert own.shape == (1, 36, 16)
        # windows 0 … 20 end with frame 25 at the latest, and the spectrogram reaches 25 ms further
        assert torch.equal(own[:, :20], other[:, :20])
        assert not torch.equal(own[:, 22], other[:, 22])

    def test_inputs_are_augmented_in_training_only(self, teacher, tiny_hubert, waveforms):
        torch.manual_seed(0)
        wave = torch.stack([torch.from_numpy(waveform[: 30 * 640]) for waveform in waveforms])
        mel = MelStudent(load_expert(teacher).config)
        hubert = HubertStudent(load_expert(teacher).config, load_hubert(str(tiny_hubert)), 2)
        assert not torch.allclose(mel.train().features(wave), mel.eval().features(wave), atol=0.1)
        assert not torch.allclose(hubert.train().features(wave), hubert.eval().features(wave), atol=0.1)
        assert torch.equal(mel.eval().features(wave), mel_spectrogram(wave).transpose(1, 2))
        assert hubert.predict_states(hubert.features(wave)).shape == (
            4,
            60,
            2,
            load_expert(teacher).config.audio_features,
        )


class TestAugmentation:
    def test_second_voice_and_noise_are_lower(self):
        torch.manual_seed(0)
        time = torch.arange(16000) / 16000
        waves = torch.stack([torch.sin(2 * torch.pi * pitch * time) for pitch in np.linspace(200, 900, 40)])
        changed = augment_waveforms(waves)
        unchanged = (changed == waves).all(1)
        assert 2 <= unchanged.sum() <= 16
        along = (changed * waves).sum(1, keepdim=True) / waves.square().sum(1, keepdim=True)
        ratio = (changed / along - waves).square().mean(1) / waves.square().mean(1)
        assert ratio.max() < 1
        assert ratio[~unchanged].min() > 0

    def test_silence_stays_finite(self):
        assert torch.isfinite(augment_waveforms(torch.zeros(20, 3200))).all()

    def test_noise_falls_with_frequency(self):
        torch.manual_seed(0)
        power = torch.fft.rfft(coloured_noise(50, 4000)).abs().square()
        low, high = power[:, 20:200].mean(1), power[:, 1800:].mean(1)
        assert (low > 0.7 * high).all()
        assert (low > 30 * high).any()


class TestLosses:
    def targets(self, embedding, start=(0, 0), voiced=True):
        count = embedding.shape[1]
        return WindowTargets(
            embedding,
            torch.tensor([0, 1]),
            torch.tensor([0, 1]),
            torch.tensor(start),
            torch.full((2, count), voiced),
        )

    def test_right_windows_have_the_lowest_loss(self):
        torch.manual_seed(0)
        embedding, scale = torch.rand(2, 12, 32) - 0.3, torch.tensor(2.3)
        right = matching_terms(embedding, self.targets(embedding), scale)
        wrong = matching_terms(embedding.roll(5, 1), self.targets(embedding), scale)
        assert right["distance"] == pytest.approx(0, abs=1e-6)
        assert right["contrast"] < wrong["contrast"] - 1
        assert wrong["distance"] > 0.1

    def test_silent_windows_are_no_negatives(self):
        """In a recording without voice, only the pairs of windows with those of the other speaker's voice count."""
        torch.manual_seed(0)
        embedding, scale = torch.rand(2, 12, 32) - 0.3, torch.tensor(2.3)
        silent = matching_terms(embedding, self.targets(embedding, voiced=False), scale)
        assert silent["contrast"] == pytest.approx(0, abs=1e-6)

    def test_regression(self):
        torch.manual_seed(0)
        target = torch.randn(3, 5, 8)
        exact = regression_loss(target, target)
        assert exact == pytest.approx(float(np.log1p(np.exp(-1))))
        opposite = regression_loss(-target, target)
        assert opposite == pytest.approx(float(2 * target.abs().mean() + np.log1p(np.e)))


class TestValidation:
    def test_shifted_by_a_frame_is_found_and_by_two_is_not(self):
        torch.manual_seed(0)
        teacher, voiced = torch.rand(60, 64) - 0.3, np.ones(60, bool)
        for shift, share in ((0, 1.0), (1, 1.0), (2, 0.0)):
            report = summary([agreement(teacher.roll(shift, 0), teacher, voiced)])
            assert report["held_out_retrieval"] == pytest.approx(share, abs=0.1)
        assert summary([agreement(teacher, teacher, voiced)])["held_out_agreement"] == pytest.approx(1)

    def test_counts_voiced_windows_within_the_search(self):
        torch.manual_seed(0)
        teacher = torch.rand(60, 64) - 0.3
        student = teacher.clone()
        student[20] = 0.4 * teacher[20] + 0.6 * teacher[50]  # nearer to a window beyond the search
        student[30] = 0.4 * teacher[30] + 0.6 * teacher[33]
        for places, counts in (([20, 40], (2, 2)), ([30, 40], (1, 2)), ([20, 30, 40], (2, 3))):
            result = agreement(student, teacher, np.isin(np.arange(60), places))
            assert (result.found, result.voiced) == counts


class TestSpeech:
    def test_samples(self, speech, waveforms):
        assert speech.speakers == [f"drawn/s{number}" for number in range(4)]
        for index, waveform in enumerate(waveforms):
            own, truth = speech.waveform(index), torch.from_numpy(waveform)
            assert len(own) == 640 * int(speech.frames[index]) == len(truth) // 640 * 640
            assert torch.allclose(own, truth[: len(own)], atol=1e-4)

    def test_decoded_once(self, folder, tmp_path, monkeypatch):
        recordings = list_speech(folder)
        first = load_speech(recordings, tmp_path, quiet)
        monkeypatch.setattr("research.audio_students.speech._decode", None)
        assert torch.equal(load_speech(recordings, tmp_path, quiet).samples, first.samples)

    def test_what_cannot_be_used_is_left_out(self, folder, tmp_path):
        place = tmp_path / "data" / "c" / "s"
        place.mkdir(parents=True)
        (place / "broken.wav").write_bytes(b"RIFF, not")
        (place / "short.wav").write_bytes(encode_wav(np.full(15000, 0.1, np.float32)))
        (place / "silent.wav").write_bytes(encode_wav(np.zeros(32000, np.float32)))
        with pytest.raises(ValueError, match="none of 3 can be used"):
            load_speech(list_speech(tmp_path / "data"), tmp_path / "cache", quiet)
        (place / "voice.wav").write_bytes((folder / "drawn" / "s0" / "0.wav").read_bytes())
        found = load_speech(list_speech(tmp_path / "data"), tmp_path / "cache", quiet)
        assert len(found.frames) == 1
        assert found.speaker.tolist() == [0]
        assert sorted(found.skipped) == ["c/s/broken.wav", "c/s/short.wav", "c/s/silent.wav"]
        assert "at least 1.0 s, got 0.94 s" in found.skipped["c/s/short.wav"]
        assert "silence" in found.skipped["c/s/silent.wav"]

    def test_manifest(self, tmp_path):
        (tmp_path / "manifest.csv").write_text("path,speaker,seconds\na/b.opus,anna,3\n")
        (recording,) = list_speech(tmp_path)
        assert recording == (tmp_path / "a/b.opus", "a/b.opus", "anna", None)
        (tmp_path / "manifest.csv").write_text("file\nx\n")
        with pytest.raises(ValueError, match="expected columns path, speaker"):
            list_speech(tmp_path)

    def test_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="found none"):
            list_speech(tmp_path)
        with pytest.raises(FileNotFoundError, match="no such data folder"):
            list_speech(tmp_path / "none")


class TestCrops:
    def test_are_of_their_places_and_never_of_held_out_recordings(self):
        """Samples that count frames: a crop's waveform shows where it was cut."""
        frames = np.array([80, 300, 60])
        lengths = [640 * int(count) + 100 for count in frames]
        first = np.cumsum([0, *lengths[:-1]])
        samples = torch.cat([10 * (torch.arange(length) // 640) + 5000 * n for n, length in enumerate(lengths)]).short()
        speech = Speech(samples, first, frames, np.arange(3), ["a", "b", "c"], {})
        drawer = CropDrawer(speech, np.array([False, False, True]), (2.0, 5.0))
        generator, drawn = np.random.default_rng(0), []
        for _ in range(20):
            places = drawer.draw(generator, 10)
            drawn.append(places.frames)
            assert set(places.recording) <= {0, 1}
            assert len(places.recording) == max(1, round(250 / places.frames))
            wave = drawer.waveforms(places) * 2**15
            assert wave.shape[1] == 640 * places.frames
            truth = torch.from_numpy(5000 * places.recording + 10 * places.start)
            assert torch.equal(wave[:, 0].long(), truth)
            assert torch.equal(wave[:, -1].long(), truth + 10 * (places.frames - 1))
        assert min(drawn) >= 50
        assert max(drawn) > 80

    def test_held_out_are_whole_people_and_none_with_much_speech(self):
        generator = np.random.default_rng(0)
        speaker, length = generator.integers(80, size=1000), generator.integers(50, 500, size=1000)
        length[speaker == 3] *= 100
        held = hold_out(speaker, length, seed=1)
        people = set(speaker[held])
        assert len(people) == 4
        assert not people & set(speaker[~held])
        assert all(3 not in speaker[hold_out(speaker, length, seed=seed)] for seed in range(40))

    def test_one_speaker_alone(self):
        with pytest.raises(ValueError, match="at least two speakers"):
            hold_out(np.zeros(3, np.int64), np.ones(3, np.int64), 0)
        assert hold_out(np.array([0, 1]), np.array([5, 5]), 0).sum() == 1
