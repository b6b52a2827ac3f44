"""Architecture `small`: dense encoding equals window by window; the face's own shape is subtracted."""

from dataclasses import replace

import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert

FRAMES = {
    "landmarks": lambda frames: torch.rand(1, frames, 68, 2),
    "parsing": lambda frames: (9 * torch.randn(1, frames, 6, 64, 64)).softmax(2),
}


def test_a_long_clip_equals_window_by_window(expert):
    video, mel = torch.rand(1, 14, 3, 48, 48), torch.rand(1, 80, 45)
    with torch.no_grad():
        whole = expert(video, mel)
        single = [expert(video[:, f : f + 5], mel[:, :, f * 16 // 5 : f * 16 // 5 + 16]) for f in range(10)]
    assert torch.allclose(whole, torch.cat(single, 1), atol=1e-5)


def test_long_hubert_features_equal_window_by_window():
    expert = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=32, embedding=8)).eval()
    features = torch.randn(1, 28, 32)
    with torch.no_grad():
        whole = expert.encode_audio(features, 14)
        single = [expert.encode_audio(features[:, 2 * f : 2 * f + 10], 5) for f in range(10)]
    assert torch.allclose(whole, torch.cat(single, 1), atol=1e-5)


def test_who_speaks_is_left_out_of_coefficients():
    """A face's own shape adds a constant to all of its coefficients; what is said does not."""
    expert = UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8)).eval()
    coefficients = torch.randn(1, 9, 64)
    with torch.no_grad():
        plain, other_face = (expert.encode_visual(coefficients + shape) for shape in (0, torch.randn(64)))
        other_words = expert.encode_visual(coefficients + torch.randn(1, 9, 64))
    assert torch.allclose(plain, other_face, atol=1e-4)
    assert not torch.allclose(plain, other_words, atol=1e-2)


@pytest.mark.parametrize("visual", ["landmarks", "parsing"])
def test_who_speaks_is_the_mean_of_the_frames_given(visual):
    """Frames in another order have the same mean: an unchanged window keeps its embedding."""
    expert = UniSyncExpert(UniSyncConfig(visual=visual, embedding=8)).eval()
    video = FRAMES[visual](12)
    shuffled = torch.cat([video[:, :5], video[:, 5:].flip(1)], 1)
    with torch.no_grad():
        whole, other, alone = (expert.encode_visual(v)[:, 0] for v in (video, shuffled, video[:, :5]))
    assert (whole - other).norm() < 1e-3 * whole.norm()
    assert (whole - alone).norm() > 1e-2 * whole.norm()


def test_a_batch_as_training_has_it_fits_into_memory():
    """Channels last, a batch of segments: laid out as one tall kernel over the features, this asked for 140 GB."""
    config = UniSyncConfig(audio="hubert", visual="landmarks", audio_features=192)
    expert = UniSyncExpert(config).to(memory_format=torch.channels_last)
    embedding = expert.encode_audio(torch.randn(32, 42, 192), 21)
    embedding.sum().backward()
    assert embedding.shape == (32, 17, 512)


def test_an_expert_without_colour_takes_the_mean_of_the_channels():
    torch.manual_seed(0)
    config = UniSyncConfig(visual="rgb", embedding=8)
    colour, grey = UniSyncExpert(config).eval(), UniSyncExpert(replace(config, colour=False)).eval()
    grey.load_state_dict(colour.state_dict())
    video = torch.rand(1, 5, 3, 48, 48)
    with torch.no_grad():
        # the mouth aligner, which has no gradient, takes colours: give it the same frames
        mouths = colour.visual_tower.aligner.crop_mouths(video[0])[None]
        luminance = mouths.mean(2, keepdim=True).expand_as(mouths)
        expected = colour.visual_tower.encode_frames(colour.visual_tower.frame_features_from_crops(luminance))
        assert torch.allclose(grey.encode_visual(video), expected, atol=1e-6)
    video.requires_grad_()
    grey.encode_visual(video).square().sum().backward()
    assert video.grad.abs().sum() > 0
    assert torch.allclose(video.grad, video.grad[:, :, :1].expand_as(video.grad), atol=1e-7)
