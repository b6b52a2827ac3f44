"""The demonstration on a small scale: few steps with a random expert on the start of the drawn clip."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE, SAMPLES_PER_FRAME, UniSyncConfig
from unisync_loss.demo.clip import (
    GAP,
    SIZE,
    DemoClip,
    audio_windows,
    load_demo_clip,
    mel_around,
    references_of,
    split_time,
)
from unisync_loss.demo.generator import (
    LipGenerator,
    batch_losses,
    draw_batch,
    faces_of,
    generate,
    lower_half,
    new_generator,
    train_generator,
)
from unisync_loss.demo.report import write_page
from unisync_loss.demo.results import DemoResult, DemoSettings
from unisync_loss.demo.run import DEFAULT_CLIP, Scorer, run_demo
from unisync_loss.loss import UniSyncLoss
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip

FRAMES = 92  # a little over 3.5 s
SETTINGS = DemoSettings(first_steps=1, steps=2, sync_weight=0.03, seed=0)


def make_clip(path: Path, frames: int = FRAMES, *, loud: float = 0.3, moving: bool = True, width: int = 64) -> Path:
    """Write a grey face whose mouth opens as a tone swells."""
    times = np.arange(frames * SAMPLES_PER_FRAME) / SAMPLE_RATE
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 2.5 * times)
    waveform = (loud * swell * np.sin(2 * np.pi * 220 * times)).astype(np.float32)
    pictures: NDArray[np.uint8] = np.full((frames, 64, width, 3), 170, np.uint8)
    for frame, opening in enumerate(swell[::640] * 8 if moving else np.full(frames, 4.0)):
        pictures[frame, 44 : 46 + int(opening), 24:40] = (90, 20, 20)
    write_clip(path, pictures, waveform)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The start of the drawn clip, which is the shortest that the demonstration accepts."""
    path = tmp_path_factory.mktemp("clip") / "face & voice.mp4"
    drawn = read_clip(DEFAULT_CLIP, max_frames=FRAMES)
    write_clip(path, drawn.frames, drawn.waveform)
    return path


@pytest.fixture(scope="module")
def expert() -> UniSyncExpert:
    """A random expert of the smallest kind."""
    torch.manual_seed(0)
    return UniSyncExpert(UniSyncConfig(embedding=8))


@pytest.fixture(scope="module")
def clip(video: Path, expert: UniSyncExpert) -> DemoClip:
    """The video with the inputs of generator and expert."""
    return load_demo_clip(video, expert)


@pytest.fixture(scope="module")
def finished(video: Path, expert: UniSyncExpert, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Path]:
    """A finished demonstration and its folder."""
    pytest.importorskip("mediapipe")
    folder = tmp_path_factory.mktemp("demo") / "deep" / "out"
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    result = run_demo(video, folder, expert, SETTINGS, log=lambda line: None)
    assert all(torch.equal(value, before[name]) for name, value in expert.state_dict().items())
    return result, folder


@pytest.fixture(scope="module")
def out(finished: tuple[DemoResult, Path]) -> Path:
    """The folder of the finished demonstration."""
    return finished[1]


def numbers(text: str) -> object:
    """Content of ``demo.json`` without the times."""
    values = json.loads(text)
    del values["seconds"]
    for run in values["runs"].values():
        del run["seconds"]
    return values


def test_outputs(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.png", "demo.json", "demo.mp4", "film.png", "report.html",
    ]  # fmt: skip
    film = read_clip(out / "demo.mp4")
    assert len(film.frames) == len(split_time(FRAMES)[1])
    assert np.abs(film.waveform).max() > 0.1


def test_json(out: Path) -> None:
    values = json.loads((out / "demo.json").read_text())
    assert set(values["probability"]) == {
        "truth", "truth_shifted", "reconstruction", "unisync", "unisync_shifted",
    }  # fmt: skip
    for measure in values["probability"].values():
        assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1
    assert len(values["series"]["unisync"]) == len(split_time(FRAMES)[1]) - 4
    assert set(values["lips"]) == {"opening", "width", "mean"}
    assert set(values["picture"]) == {"error", "colour", "detail"}
    assert set(values["runs"]) == {"reconstruction", "unisync"}
    assert len(values["first_loss"]) == 1
    assert len(values["runs"]["unisync"]["sync"]) == values["settings"]["steps"] == 2
    assert values["runs"]["reconstruction"]["sync"] == []
    assert isinstance(values["lips_better"], bool)


def test_page_is_self_contained(out: Path) -> None:
    text = (out / "report.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {reference for reference in references if not reference.startswith("data:image/png;base64,")} == {"demo.mp4"}
    assert sum(reference.startswith("data:") for reference in references) == 2
    assert "http" not in text
    assert "face &amp; voice.mp4" in text
    assert "$" not in text


def test_same_seed_same_numbers(
    video: Path, expert: UniSyncExpert, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisync_loss.demo.run.write_report", lambda *arguments: None)
    torch.rand(7)  # the random state of the caller must not matter
    again = run_demo(video, tmp_path, expert, SETTINGS, log=lambda line: None)
    assert numbers(again.to_json()) == numbers((out / "demo.json").read_text())
    lines = again.table().splitlines()
    assert again.headline in lines
    assert again.headline in write_page(again, b"", b"")


def test_another_seed_gives_other_weights_and_data(clip: DemoClip) -> None:
    losses = [[*train_generator(new_generator(seed), clip, 2, seed=seed)] for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0][1] != losses[2][1]


def test_trainings_differ_by_the_loss_alone(out: Path) -> None:
    runs = json.loads((out / "demo.json").read_text())["runs"]
    # same weights and data: the first step's losses are the same, the second's are not
    first, second = zip(*(runs[name]["reconstruction"] for name in runs), strict=True)
    assert first[0] == first[1]
    assert second[0] != second[1]


@pytest.mark.parametrize("frames", [88, 100, 250, 500])
def test_split_has_a_gap(frames: int) -> None:
    train, held = split_time(frames)
    assert train.start == 0
    assert held.start - train.stop == GAP >= 5
    assert held.stop == frames
    assert len(held) >= 20


def test_held_out_part_never_trains(clip: DemoClip) -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [draw_batch(clip.train, rng)[0] for _ in range(100)]
    generated = torch.cat(batches)
    assert generated.min() == 0
    assert generated.max() == clip.train.stop - 1
    # nor through the audio: the last mel window of the training part ends before the first held-out frame
    steps = torch.arange(clip.mel.shape[1], dtype=torch.float32).expand(80, -1)
    assert mel_around(steps, generated.max()[None] + 0.5).max() * 200 + 400 < clip.held.start * SAMPLES_PER_FRAME


def test_references_come_from_other_training_frames() -> None:
    train, _ = split_time(FRAMES)
    # each frame's lower half holds its own number: the reference must not contain it, nor one of the held-out part
    frames = torch.rand(FRAMES, 1, 3, SIZE // 2, SIZE // 2).mean(1).repeat(1, 1, 2, 2)
    spoilt = frames.clone()
    spoilt[train.stop :, :, SIZE // 2 :] = torch.nan
    assert references_of(spoilt, train).isfinite().all()
    spoilt = frames.clone()
    spoilt[30, :, SIZE // 2 :] = torch.nan
    assert references_of(spoilt, train)[30 - 7 : 30 + 8].isfinite().all()


def test_mel_window_holds_the_frame_in_its_middle() -> None:
    mel = torch.arange(400.0).expand(80, -1)
    windows = mel_around(mel, torch.tensor([50]))
    assert windows.shape == (1, 1, 80, 16)
    # frame 50 lasts from step 160 to 163.2
    assert windows[0, 0, 0, [0, -1]].mean() == pytest.approx(161.6, abs=0.6)
    assert mel_around(mel, torch.tensor([0, 125])).shape == (2, 1, 80, 16)


def test_upper_half_is_the_target() -> None:
    torch.manual_seed(0)
    faces = torch.rand(3, 6, SIZE, SIZE)
    generator = LipGenerator()
    torch.nn.init.normal_(generator.out.weight)
    generated = generator(torch.randn(3, 1, 80, 16), faces)
    assert generated.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(generated[:, :, : SIZE // 2], faces[:, :3, : SIZE // 2])
    assert generated.min() >= 0
    assert generated.max() <= 1


def test_generator_gets_audio_and_no_lower_half(clip: DemoClip) -> None:
    faces = faces_of(clip, torch.arange(4))
    assert faces[:, :3, SIZE // 2 :].abs().max() == 0
    torch.manual_seed(0)
    generator = LipGenerator()
    torch.nn.init.normal_(generator.out.weight)
    generated = generate(generator, clip)
    assert generated.shape == (len(clip.held), 3, SIZE, SIZE)
    assert not torch.equal(generated, generate(generator, clip, late=5))


def test_first_output_is_the_reference(clip: DemoClip) -> None:
    frames = torch.arange(4)
    generated = LipGenerator()(mel_around(clip.mel, frames), faces_of(clip, frames))
    torch.testing.assert_close(lower_half(generated), lower_half(clip.references[:4]).clamp(0.01, 0.99))


def test_sync_loss_reaches_the_generator(clip: DemoClip, expert: UniSyncExpert) -> None:
    generator = LipGenerator()
    batch = draw_batch(clip.train, torch.Generator().manual_seed(0))
    _, sync = batch_losses(generator, clip, *batch, UniSyncLoss(expert))
    sync.backward()
    assert generator.out.weight.grad is not None
    assert generator.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("audio", ["mel", "hubert", "whisper"])
def test_audio_windows_embed_as_the_whole(clip: DemoClip, expert: UniSyncExpert, audio: str) -> None:
    waveform = torch.from_numpy(clip.waveform)[None]
    if audio != "mel":
        torch.manual_seed(0)
        config = UniSyncConfig(audio=audio, audio_features=32, embedding=8)  # type: ignore[arg-type]
        expert = UniSyncExpert(config)
        whole_input = torch.randn(1, 2 * FRAMES, 32)
        clip = clip._replace(audio=audio, audio_input=whole_input[0])
    else:
        whole_input = waveform
    expert.eval()
    starts = torch.tensor([0, 1, 7, 40])
    with torch.no_grad():
        whole = expert.encode_audio(whole_input, FRAMES)[0]
        windows = expert.encode_audio(audio_windows(clip, starts), 5)[:, 0]
    torch.testing.assert_close(windows, whole[starts], atol=1e-4, rtol=0)
    torch.testing.assert_close(Scorer(expert, clip).audio, whole, atol=1e-4, rtol=0)


def test_the_scorer_shifts_the_audio(clip: DemoClip, expert: UniSyncExpert) -> None:
    scorer = Scorer(expert.eval(), clip)
    truth = clip.frames[clip.held.start :]
    whole = expert(clip.frames[None], torch.from_numpy(clip.waveform)[None])[0]
    torch.testing.assert_close(scorer.probability(truth), whole[clip.held.start :], atol=1e-4, rtol=0)
    assert len(scorer.probability(truth, 5)) == len(truth) - 4  # with audio of the gap and the training part
    assert len(scorer.probability(truth, -5)) == len(truth) - 4 - 5
    late = Scorer(expert, clip._replace(audio_input=clip.audio_input.roll(16, dims=0)))  # 16 steps are 5 frames
    torch.testing.assert_close(late.probability(truth), scorer.probability(truth, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 80}, r"expected at least 3\.5 s of video, got 3\.2 s"),
        ({"loud": 0.0}, "expected speech throughout, got silence"),
        ({"moving": False}, "expected a moving face, got a still one"),
        ({"width": 160}, "expected a crop around one face, about square, got 160 x 64"),
    ],
)
def test_clips_that_cannot_be_used(change: dict[str, int], message: str, expert: UniSyncExpert, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        run_demo(path, tmp_path / "out", expert, SETTINGS)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_used(expert: UniSyncExpert, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such video file"):
        run_demo(tmp_path / "none.mp4", tmp_path / "out", expert, SETTINGS)
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be decoded"):
        run_demo(tmp_path / "text.mp4", tmp_path / "out", expert, SETTINGS)
    write_clip(tmp_path / "mute.mp4", np.zeros((100, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="expected a video with audio, got no audio stream"):
        run_demo(tmp_path / "mute.mp4", tmp_path / "out", expert, SETTINGS)


def test_experts_that_cannot_be_used(video: Path, tmp_path: Path) -> None:
    landmarks = UniSyncExpert(UniSyncConfig(visual="landmarks", visual_features=136, embedding=8))
    with pytest.raises(ValueError, match="expected an expert on rgb, got mel-landmarks"):
        run_demo(video, tmp_path / "out", landmarks, SETTINGS)
    assert not (tmp_path / "out").exists()
