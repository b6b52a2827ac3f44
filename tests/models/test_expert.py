import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert

VIDEO = {
    "rgb": lambda b, t: torch.rand(b, t, 3, 64, 48),
    "parsing": lambda b, t: (9 * torch.randn(b, t, 6, 64, 48)).softmax(2),
    "landmarks": lambda b, t: torch.rand(b, t, 68, 2),
    "3dmm": lambda b, t: torch.randn(b, t, 64),
}
AUDIO = {
    "mel": lambda b, t: torch.rand(b, 80, t * 16 // 5),
    "hubert": lambda b, t: torch.randn(b, 2 * t, 1024),
    "whisper": lambda b, t: torch.randn(b, 2 * t, 512),
}


def size(config):
    """Parameters and multiply-adds of one window."""
    flops = pytest.importorskip("torch.utils.flop_counter", reason="PyTorch counts from 2.1 on")
    expert = UniSyncExpert(config).eval()
    video = torch.rand(1, 5, 3, 96, 96) if config.visual == "rgb" else VIDEO[config.visual](1, 5)
    with flops.FlopCounterMode(display=False) as counter, torch.no_grad():
        expert(video, AUDIO[config.audio](1, 5))
    return sum(parameter.numel() for parameter in expert.parameters()), counter.get_total_flops() / 2


def test_paper_has_the_papers_size():
    parameters, multiply_adds = size(UniSyncConfig(audio="hubert", visual="rgb", architecture="paper"))
    assert parameters / 1e6 == pytest.approx(16.3, abs=0.1)
    assert multiply_adds / 1e9 == pytest.approx(1.73, abs=0.02)


def test_small_is_small():
    parameters, multiply_adds = size(UniSyncConfig())
    paper = size(UniSyncConfig(architecture="paper"))[1]
    assert parameters <= 5e6
    assert multiply_adds < paper / 5


@pytest.mark.parametrize("architecture", ["paper", "small"])
@pytest.mark.parametrize("visual", list(VIDEO))
@pytest.mark.parametrize("audio", list(AUDIO))
def test_every_pair_runs_and_learns(architecture, visual, audio):
    expert = UniSyncExpert(UniSyncConfig(audio=audio, visual=visual, architecture=architecture, embedding=16))
    p = expert(VIDEO[visual](2, 6), AUDIO[audio](2, 6))
    assert p.shape == (2, 2)
    assert ((p >= 0) & (p <= 1)).all()
    p.sum().backward()
    # the aligner is a constant in the forward pass by design; everything else must learn
    idle = [name for name, q in expert.named_parameters() if q.grad is None and "aligner" not in name]
    assert not idle


@pytest.mark.parametrize("height_width", [(96, 96), (256, 256), (61, 117), (300, 40)])
def test_any_picture_size(expert, height_width):
    assert expert(torch.rand(1, 5, 3, *height_width), torch.rand(1, 3200)).shape == (1, 1)


@pytest.mark.parametrize("architecture", ["paper", "small"])
def test_batch_of_three_is_three_batches_of_one(architecture):
    expert = UniSyncExpert(UniSyncConfig(architecture=architecture, embedding=16)).eval()
    video, audio = torch.rand(3, 7, 3, 48, 48), torch.randn(3, 7 * 640) / 10
    with torch.no_grad():
        together = expert(video, audio)
        apart = torch.cat([expert(video[i : i + 1], audio[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, apart, atol=1e-5)


def test_stride_picks_windows(expert):
    video, audio = torch.rand(1, 17, 3, 32, 32), torch.randn(1, 17 * 640)
    with torch.no_grad():
        assert torch.allclose(expert(video, audio)[:, ::5], expert(video, audio, stride=5), atol=1e-6)


@pytest.mark.parametrize(
    ("video", "audio", "message"),
    [
        (torch.rand(1, 4, 3, 96, 96), torch.rand(1, 2560), "at least T = 5 frames .* got T = 4"),
        (torch.rand(1, 25, 3, 96, 96), torch.rand(1, 44100), r"expected about \(B, 16000\) samples for T = 25.*44100"),
        (torch.rand(1, 25, 3, 96, 96), torch.rand(1, 8000), r"expected about \(B, 16000\) samples"),
        (torch.rand(1, 5, 3, 96, 96), torch.rand(1, 16, 80), r"mel features as \(B, 80, L\).*got \(1, 16, 80\)"),
    ],
)
def test_wrong_input(expert, video, audio, message):
    with pytest.raises(ValueError, match=message):
        expert(video, audio)


@pytest.mark.parametrize("frames", [5, 6, 10, 16, 25, 100])
def test_lengths(expert, frames):
    """What codecs and windows add is accepted, other rates are not, also for the shortest clips."""
    samples = 640 * frames
    for length in (samples, samples + 640):
        expert.encode_audio(torch.rand(1, length), frames)
        expert.encode_audio(torch.rand(1, 80, length // 200), frames)
    for rate in (22_050, 24_000, 32_000, 44_100, 48_000):
        with pytest.raises(ValueError, match=r"expected about .* samples"):
            expert.encode_audio(torch.rand(1, rate * frames // 25), frames)
    with pytest.raises(ValueError, match=r"expected about .* steps"):
        expert.encode_audio(torch.rand(1, 80, 4 * frames), frames)  # 100 a second


@pytest.mark.parametrize(
    ("visual", "audio", "video", "features", "message"),
    [
        ("landmarks", "mel", torch.rand(1, 5, 67, 2), torch.rand(1, 3200), "136 coordinates.*got .1, 5, 67, 2"),
        ("3dmm", "mel", torch.rand(1, 5, 50), torch.rand(1, 3200), "got .1, 5, 50"),
        ("parsing", "mel", torch.full((1, 5, 32, 32), 9), torch.rand(1, 3200), r"labels in \[0, 6\), got 9"),
        ("rgb", "hubert", torch.rand(1, 5, 3, 32, 32), torch.rand(1, 3200), "download facebook/hubert-large"),
        ("rgb", "hubert", torch.rand(1, 5, 3, 32, 32), torch.rand(1, 10, 768), "1024.*got .1, 10, 768"),
        ("rgb", "whisper", torch.rand(1, 5, 3, 32, 32), torch.rand(1, 10, 384), "512.*got .1, 10, 384.*Whisper tiny"),
    ],
)
def test_wrong_input_of_other_pairs(visual, audio, video, features, message):
    with pytest.raises(ValueError, match=message):
        UniSyncExpert(UniSyncConfig(visual=visual, audio=audio, embedding=8))(video, features)


def test_labels_equal_their_probabilities():
    expert = UniSyncExpert(UniSyncConfig(visual="parsing", embedding=8)).eval()
    labels = torch.randint(6, (1, 5, 32, 32))
    one_hot = torch.nn.functional.one_hot(labels, 6).movedim(-1, 2).float()
    with torch.no_grad():
        assert torch.equal(expert(labels, torch.ones(1, 80, 16)), expert(one_hot, torch.ones(1, 80, 16)))


def test_landmarks_are_free_of_place_and_size():
    expert = UniSyncExpert(UniSyncConfig(visual="landmarks", embedding=8)).eval()
    points, audio = torch.rand(1, 5, 68, 2), torch.rand(1, 80, 16)
    with torch.no_grad():
        assert torch.allclose(expert(points, audio), expert(7 * points + 3, audio), atol=1e-4)


@pytest.mark.parametrize("audio", AUDIO)
def test_prepared_audio_embeds_as_the_audio(audio):
    expert = UniSyncExpert(UniSyncConfig(audio=audio, embedding=8)).eval()
    given = AUDIO[audio](2, 9)
    with torch.no_grad():
        features = expert.prepare_audio(given)
        assert features.shape == (2, *(given.shape[:0:-1] if audio == "mel" else given.shape[1:]))
        assert torch.equal(expert.encode_prepared_audio(features, 9), expert.encode_audio(given, 9))
        assert torch.equal(expert.encode_prepared_audio(features, 9, stride=2), expert.encode_audio(given, 9)[:, ::2])
        with pytest.raises(ValueError, match=r"expected about .* for T = 12 frames"):
            expert.encode_prepared_audio(features, 12)


def test_a_name_in_place_of_a_config():
    with pytest.raises(ValueError, match=r"config: expected a UniSyncConfig, got 'mel-rgb': use unisync_loss.load_exp"):
        UniSyncExpert("mel-rgb")


@pytest.mark.parametrize("wrong", [None, "5", True, 2.5, torch.ones(2), [5]])
def test_no_number_of_frames(expert, wrong):
    audio = torch.randn(1, 6 * 640) / 10
    with pytest.raises(ValueError, match="frames: expected a whole number"):
        expert.encode_audio(audio, wrong)
    with pytest.raises(ValueError, match="stride: expected a whole number"):
        expert.encode_audio(audio, 6, stride=wrong)
    with pytest.raises(ValueError, match="stride: expected a whole number"):
        expert.encode_visual(torch.rand(1, 6, 3, 48, 48), stride=wrong)
