"""A HuBERT from speech alone, in small: drawn voices, three rounds of a few steps."""

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

from research.hubert_small.abx import abx_error, draw_sentences
from research.hubert_small.masked_prediction import CropDrawer, HubertSize, draw_mask
from research.hubert_small.pretrain import PretrainConfig, hold_out, pretrain
from research.hubert_small.speech import Speech, list_speech, load_speech, samples_of
from research.hubert_small.tasks import PIECE_STEPS, pieces
from research.hubert_small.units import fit_groups, mfcc_with_deltas, nearest, perplexity
from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, load_expert, save_pretrained
from unisync_loss.lse.mfcc import compute_mfcc
from unisync_loss.representations.hubert_encoder import HubertEncoder, steps_of
from unisync_loss.video.encoding import encode_wav

SIZE = HubertSize(hidden=32, layers=2, channels=(8, 8, 8, 16, 16, 16, 16))


def quiet(line):
    pass


@pytest.fixture(scope="module")
def sentences():
    return draw_sentences(voices=4, seconds=3.0)


@pytest.fixture(scope="module")
def folder(sentences, tmp_path_factory):
    """Four drawn voices, a recording each."""
    root = tmp_path_factory.mktemp("speech")
    for number, sentence in enumerate(sentences):
        path = root / "drawn" / f"s{number}" / "0.wav"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_wav(sentence.waveform))
    return root


@pytest.fixture(scope="module")
def speech(folder, tmp_path_factory):
    return load_speech(list_speech(folder), tmp_path_factory.mktemp("cache"), quiet)


@pytest.fixture(autouse=True)
def few_sentences(sentences, monkeypatch):
    monkeypatch.setattr("research.hubert_small.pretrain.draw_sentences", lambda: sentences)


def config_of(folder, out, **changes):
    values = {
        "units": (8, 12),
        "steps": (24, 8),
        "ear": "mel-rgb",
        "ear_steps": 32,
        "batch_seconds": 6,
        "val_every": 8,
        "learning_rate": 4e-3,
        "size": SIZE,
    }
    return PretrainConfig(data=(str(folder),), out=str(out), cache=str(folder.parent / "cache"), **(values | changes))


@pytest.fixture(scope="module")
def run(folder, sentences, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("research.hubert_small.pretrain.draw_sentences", lambda: sentences)
        pretrain(config_of(folder, out), resume=False, log=quiet)
    return out


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class TestRun:
    def test_loss_falls(self, run):
        """From that of random guesses, ln 8, or more; on unknown speakers, too."""
        first = [row for row in log_of(run) if row["round"] == 1]
        loss = [row["loss"] for row in first if "loss" in row]
        assert loss[0] > 2.0
        assert loss[-1] < loss[0] - 0.05
        held_out = [row["held_out_loss"] for row in first if "held_out_loss" in row]
        assert len(held_out) == 3
        assert held_out[-1] < loss[0] - 0.05

    def test_hears_more_and_more_what_the_expert_hears(self, run):
        """On unknown speakers, and more so on the same window than on another one."""
        third = [row for row in log_of(run) if row["round"] == 3]
        agreement = [row["held_out_agreement"] for row in third if "held_out_agreement" in row]
        elsewhere = [row["agreement_elsewhere"] for row in third if "agreement_elsewhere" in row]
        assert len(agreement) == 4
        assert agreement[-1] > agreement[0] + 0.02
        assert agreement[-1] > elsewhere[-1] + 0.01

    def test_the_expert_sees_as_before_and_hears_through_the_hubert(self, run, sentences):
        teacher, expert = load_expert("mel-rgb"), load_expert(run / "expert")
        video, wave = torch.rand(1, 10, 3, 96, 96), torch.from_numpy(sentences[0].waveform)[None, : 10 * 640]
        with torch.no_grad():
            assert torch.equal(expert.encode_visual(video), teacher.encode_visual(video))
            assert expert.encode_audio(wave, 10).shape == teacher.encode_audio(wave, 10).shape

    def test_an_ear_for_something_else(self, folder, tmp_path):
        path = tmp_path / "expert"
        save_pretrained(UniSyncExpert(UniSyncConfig(audio="hubert", audio_features=16, embedding=8)), path)
        with pytest.raises(ValueError, match="expected an expert on mel"):
            pretrain(config_of(folder, tmp_path / "run", ear=str(path)), resume=False, log=quiet)

    def test_measures(self, run):
        errors = [row for row in log_of(run) if "abx_error_of_layers" in row]
        assert [row["round"] for row in errors] == [1, 2, 3]
        assert len(errors[0]["abx_error_of_layers"]) == SIZE.layers + 2
        assert errors[0]["abx_error_of_mfcc"] < 0.2
        used = [row for row in log_of(run) if "units" in row]
        assert [row["units"] for row in used] == [8, 12]
        assert all(1 < row["perplexity"] <= row["units"] for row in used)

    def test_its_folder_serves_an_expert(self, run):
        config = UniSyncConfig(audio="hubert", audio_features=32, embedding=8, audio_model=str(run / "hubert"))
        loss = UniSyncLoss(UniSyncExpert(config))
        video = torch.rand(1, 7, 3, 96, 96, requires_grad=True)
        loss(video, torch.randn(1, 7 * 640) / 10).backward()
        assert video.grad.abs().sum() > 0

    def test_its_folder_is_the_averaged_network(self, run, sentences):
        """Encoded by our own path in one go, and by transformers from the weights of the state."""
        from transformers import HubertModel

        encoder = HubertEncoder.from_pretrained(run / "hubert")
        wave = torch.from_numpy(sentences[0].waveform)[None]
        model = HubertModel(SIZE.config()).eval()
        prefix = "average.hubert."
        state = load_file(run / "state.safetensors")
        model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        with torch.no_grad():
            truth = model((wave - wave.mean()) / wave.std(correction=0)).last_hidden_state
        assert torch.allclose(encoder(wave)[:, :-1], truth, atol=2e-2)  # float16 weights
        assert truth.std() > 0.1

    def test_resumed_equals_undisturbed(self, folder, tmp_path):
        few = {"steps": (8, 4), "ear_steps": 8, "val_every": 4, "batch_seconds": 3}
        whole, places = tmp_path / "whole", ["1  step 4", "2  step 4", "3  step 4"]
        torch.manual_seed(5)  # the state of the global generator must not matter
        pretrain(config_of(folder, whole, **few), resume=False, log=quiet)

        def interrupt(line):
            if places and line.startswith(f"round {places[0]}"):
                places.pop(0)
                os.kill(os.getpid(), signal.SIGTERM)

        config = config_of(folder, tmp_path / "run", **few)
        pretrain(config, resume=False, log=interrupt)
        starts = 1
        while "abx_error_of_mfcc" not in (last := log_of(tmp_path / "run")[-1]) or last["round"] < 3:
            pretrain(config, resume=True, log=interrupt)
            starts += 1
        pretrain(config, resume=True, log=interrupt)  # what is finished stays as it is
        assert not places
        assert starts > 1
        for file in ("state.safetensors", "hubert/model.safetensors"):
            own, undisturbed = load_file(tmp_path / "run" / file), load_file(whole / file)
            assert own.keys() == undisturbed.keys()
            assert all(torch.equal(own[key], undisturbed[key]) for key in own)

    def test_refuses_an_existing_run(self, run, folder):
        with pytest.raises(FileExistsError, match="--resume"):
            pretrain(config_of(folder, run), resume=False, log=quiet)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_refuses_a_device_that_is_not_there(self, folder, tmp_path):
        with pytest.raises(ValueError, match="no CUDA device"):
            pretrain(config_of(folder, tmp_path / "run", device="cuda"), resume=False, log=quiet)
        assert not (tmp_path / "run").exists()


def test_the_command_names_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "research.hubert_small", "--data", str(tmp_path / "none"), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("hubert_small: no such data folder")


class TestSpeech:
    def test_samples(self, speech, sentences):
        assert speech.speakers == [f"drawn/s{number}" for number in range(4)]
        for index, sentence in enumerate(sentences):
            truth = torch.from_numpy(sentence.waveform)
            assert torch.allclose(speech.waveform(index), truth[: samples_of(int(speech.steps[index]))], atol=1e-4)
            assert len(truth) - samples_of(int(speech.steps[index])) < 320

    def test_decoded_once(self, folder, tmp_path, monkeypatch):
        recordings = list_speech(folder)
        first = load_speech(recordings, tmp_path, quiet)
        monkeypatch.setattr("research.hubert_small.speech._decode", None)
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
        assert len(found.steps) == 1
        assert found.speaker.tolist() == [0]
        reasons = {name: reason for name, reason in sorted(found.skipped.items())}
        assert list(reasons) == ["c/s/broken.wav", "c/s/short.wav", "c/s/silent.wav"]
        assert "at least 1.0 s, got 0.94 s" in reasons["c/s/short.wav"]
        assert "silence" in reasons["c/s/silent.wav"]

    def test_manifest(self, folder, tmp_path):
        (tmp_path / "manifest.csv").write_text("path,speaker,seconds\na/b.opus,anna,3\n")
        (recording,) = list_speech(tmp_path)
        assert recording == (tmp_path / "a/b.opus", "a/b.opus", "anna", None)
        (tmp_path / "manifest.csv").write_text("file\nx\n")
        with pytest.raises(ValueError, match="expected columns path and speaker"):
            list_speech(tmp_path)

    def test_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="found none"):
            list_speech(tmp_path)
        with pytest.raises(FileNotFoundError, match="no such data folder"):
            list_speech(tmp_path / "none")


def test_pieces_are_the_recording():
    """Steps that begin where they would in the whole, none lost, none twice."""
    steps = 2 * PIECE_STEPS + 7
    cut = list(pieces(torch.arange(samples_of(steps) + 100), steps))
    assert [steps_of(len(piece)) for piece in cut] == [PIECE_STEPS, PIECE_STEPS, 7]
    assert [int(piece[0]) for piece in cut] == [0, 320 * PIECE_STEPS, 640 * PIECE_STEPS]


class TestHeldOut:
    def test_whole_people_and_none_who_talk_much(self):
        generator = np.random.default_rng(0)
        speaker, length = generator.integers(80, size=1000), generator.integers(50, 500, size=1000)
        length[speaker == 3] *= 100
        held = hold_out(speaker, length, seed=1)
        people = set(speaker[held])
        assert len(people) == 4
        assert not people & set(speaker[~held])
        assert all(3 not in speaker[hold_out(speaker, length, seed=seed)] for seed in range(40))

    def test_one_alone(self):
        with pytest.raises(ValueError, match="at least two speakers"):
            hold_out(np.zeros(3, np.int64), np.ones(3, np.int64), 0)
        assert hold_out(np.array([0, 1]), np.array([5, 5]), 0).sum() == 1


class TestUnits:
    def test_mfcc_is_of_the_same_samples_as_the_step(self, sentences):
        """39 features; the first 13 are the MFCC of the step's own 400 samples, but for their scale."""
        wave = torch.from_numpy(sentences[1].waveform)
        steps = (len(wave) - 400) // 320 + 1
        features = mfcc_with_deltas(wave, steps)
        assert features.shape == (steps, 39)
        assert torch.allclose(features.mean(0), torch.zeros(39), atol=1e-4)
        # 560 samples hold two MFCC steps: the second begins at the HuBERT step's first sample, pre-emphasis behind it
        alone = torch.stack(
            [compute_mfcc(wave[320 * k - 160 : 320 * k + 400] * 32768)[1] for k in range(20, 60)]
        ).float()
        for column in range(13):
            pair = torch.stack([features[20:60, column], alone[:, column]])
            assert torch.corrcoef(pair)[0, 1] > 0.99999

    def test_slopes(self):
        """MFCC that rise steadily have a constant slope, whose own slope is 0: only scale and ends remain."""
        from research.hubert_small.units import _slopes

        ramp = 3 * torch.arange(20.0)[:, None]
        assert torch.allclose(_slopes(ramp)[2:-2], torch.full((16, 1), 3.0))
        assert torch.allclose(_slopes(ramp**2)[2:-2], 2 * 9 * torch.arange(20.0)[2:-2, None])

    def test_groups_of_clear_clusters(self):
        generator = torch.Generator().manual_seed(0)
        truth = torch.arange(6).repeat(50)
        centres = 10 * torch.randn(6, 4, generator=generator)
        points = centres[truth] + 0.1 * torch.randn(300, 4, generator=generator)
        found = fit_groups(points, 6, np.random.default_rng(3))
        group, distance = nearest(points, found)
        assert perplexity(group.numpy()) == pytest.approx(6)
        assert distance.mean() < 0.05
        assert torch.allclose(distance, (points - found[group]).square().sum(1), atol=1e-3)

    def test_no_group_stays_empty(self):
        points = torch.cat([torch.zeros(50, 2), torch.tensor([[9.0, 0], [0, 9]])])
        assert set(map(tuple, fit_groups(points, 3, np.random.default_rng(0)).tolist())) == {(0, 0), (9, 0), (0, 9)}

    def test_too_few(self):
        with pytest.raises(ValueError, match="at least 9 steps of speech for 9 units, got 8"):
            fit_groups(torch.zeros(8, 2), 9, np.random.default_rng(0))

    def test_perplexity(self):
        assert perplexity(np.array([0, 1, 5, 7])) == pytest.approx(4)
        assert perplexity(np.array([2, 2, 2])) == pytest.approx(1)


class TestCrops:
    def test_units_lie_over_their_samples(self):
        """Samples that count up, and the number of the step as its unit: both must tell the same place."""
        steps = np.array([80, 300, 60])
        lengths = [samples_of(int(count)) + 100 for count in steps]
        first = np.cumsum([0, *lengths[:-1]])
        samples = torch.cat([10 * (torch.arange(length) // 320 + 1000 * n) for n, length in enumerate(lengths)]).short()
        units = np.concatenate([np.arange(count) + 1000 * n for n, count in enumerate(steps)]).astype(np.int16)
        speech = Speech(samples, first, steps, np.arange(3), ["a", "b", "c"], {})
        drawer, units = CropDrawer(speech, np.array([0.5, 0.5, 0.0]), torch.device("cpu")), torch.from_numpy(units)
        generator = np.random.default_rng(0)
        lengths_seen = set()
        for _ in range(20):
            places = drawer.draw(generator, 10)
            crops = drawer.crop(places, units, generator)
            length = crops.units.shape[1]
            lengths_seen.add(length)
            assert crops.waveform.shape[1] == samples_of(length)
            assert crops.units.max() < 2000  # the third is never drawn
            assert torch.allclose(crops.waveform.mean(1), torch.zeros(()), atol=1e-4)
            assert torch.allclose(crops.waveform.std(1, correction=0), torch.ones(()), atol=1e-3)
            assert (crops.units.diff(dim=1) == 1).all()
            # one step is 320 samples and 1 louder, in samples as in units
            rise = crops.waveform[:, 320 * 20] - crops.waveform[:, 0]
            raw = samples[first[crops.units[:, 0] // 1000] + 320 * (crops.units[:, 0].numpy() % 1000)]
            assert torch.equal(raw.long(), 10 * crops.units[:, 0])
            assert torch.equal(drawer.waveforms(places)[:, 0], raw / 2**15)
            assert (rise > 0).all()
        assert min(lengths_seen) == 80
        assert max(lengths_seen) <= 300

    def test_mask(self):
        mask = draw_mask(np.random.default_rng(0), 400, 250)
        assert mask[:, 10:].mean() == pytest.approx(1 - 0.92**10, abs=0.02)
        assert mask.any(1).all()
        runs = np.diff(np.flatnonzero(np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int).ravel())))[::2]
        assert draw_mask(np.random.default_rng(0), 50, 5).any(1).all()
        assert np.median(runs) >= 10

    def test_sizes(self):
        with pytest.raises(ValueError, match="channels of 7"):
            HubertSize(channels=(8, 8))
        with pytest.raises(ValueError, match="multiple of 16"):
            HubertSize(hidden=40)


class TestAbx:
    def test_extremes(self, sentences):
        symbols = sorted({segment.symbol for sentence in sentences for segment in sentence.segments})
        perfect, voice = [], []
        for number, sentence in enumerate(sentences):
            steps = torch.zeros(150, len(symbols))
            for segment in sentence.segments:
                steps[int(segment.start * 50) : round(segment.end * 50) + 1, symbols.index(segment.symbol)] += 1
            perfect.append(steps)
            voice.append(torch.eye(4)[number].expand(150, -1))
        noise = [torch.randn(150, 30) for _ in sentences]
        assert abx_error(sentences, perfect) < 0.02
        assert abx_error(sentences, voice) == pytest.approx(0.5)
        assert abx_error(sentences, noise) == pytest.approx(0.5, abs=0.05)
