import json
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, SHARED
from torch.nn import functional as F

from unisync_loss.lse.distances import LseMeter, offset_distances, summarise
from unisync_loss.lse.mfcc import compute_mfcc

sys.path.insert(0, str(ROOT / "benchmarks"))
from lse_speed import original_distances


def fed(net, frames, samples):
    meter = LseMeter(net, samples)
    for frame in frames:
        meter.add(frame)
    return meter


@pytest.fixture(scope="module")
def golden_meter(golden, golden_syncnet):
    return fed(golden_syncnet, torch.from_numpy(golden["frames_bgr"]).flip(-1).movedim(-1, 1), golden["wav"])


def test_distances_equal_the_original(golden, golden_meter):
    ours, theirs = golden_meter.distances().numpy(), golden["distances"]
    assert ours.shape == theirs.shape
    assert (np.abs(ours - theirs) / theirs).max() < 1e-4
    # what differs between offsets is small beside the distances of random weights: hold that, too
    assert np.abs((ours - ours.mean(1, keepdims=True)) - (theirs - theirs.mean(1, keepdims=True))).max() < 1e-2


@pytest.mark.parametrize("script", ["syncnet_python", "wav2lip_scores"])
def test_result_equals_the_original_scripts(golden_meter, script):
    theirs = json.loads((SHARED / "golden" / "syncnet_golden.json").read_text())[script]
    ours = summarise(golden_meter.distances())
    assert ours.lse_d == pytest.approx(theirs["min_distance"], rel=1e-4)
    assert ours.lse_c == pytest.approx(theirs["confidence"], rel=1e-4)
    assert -ours.offset == theirs["offset"]  # the original prints + when the audio is early


class Fixed:
    """Gives one matrix of distances."""

    def __init__(self, matrix):
        self.matrix = matrix

    def distances(self):
        return self.matrix


@pytest.mark.parametrize("wrong", ["pairs left out", "last pair repeated", "a window late", "other sign"])
def test_parity_can_fail(golden, golden_meter, wrong):
    """Wrong edges, a window off, the wrong sign: both the distances and the printed result turn red."""
    right, real = golden_meter.distances(), golden_meter.distances("valid")
    matrix = {
        "pairs left out": real,
        "last pair repeated": torch.where(real.isnan(), real.nan_to_num(0).amax(1, keepdim=True), real),
        "a window late": right.roll(1, 1),
        "other sign": right.flip(1),
    }[wrong]
    with pytest.raises(AssertionError):
        test_distances_equal_the_original(golden, Fixed(matrix))
    with pytest.raises(AssertionError):
        test_result_equals_the_original_scripts(Fixed(matrix), "syncnet_python")


@pytest.mark.parametrize(("frames", "samples"), [(6, 6 * 640), (40, 38 * 640 + 7), (12, 20 * 640)])
def test_distances_equal_window_by_window(syncnet, syncnet_layers, frames, samples):
    """Also across the pieces in which a clip is embedded, and where either stream ends first."""
    draw = np.random.default_rng(0)
    pictures = torch.from_numpy(draw.integers(0, 256, (frames, 3, 224, 224), dtype=np.uint8))
    sound = draw.integers(-9000, 9000, samples).astype(np.int16)
    meter = fed(syncnet, pictures, sound)
    with torch.no_grad():
        expected = original_distances(syncnet_layers, pictures, sound).numpy()
    legacy, valid = meter.distances().numpy(), meter.distances("valid").numpy()
    assert legacy.shape == expected.shape
    assert np.abs(legacy / expected - 1).max() < 1e-5
    reach = np.arange(len(expected))[:, None] + np.arange(-15, 16)
    exists = (reach >= 0) & (reach < len(expected))
    assert (np.isfinite(valid) == exists).all()
    assert (valid[exists] == legacy[exists]).all()


@pytest.mark.parametrize("samples", [80 * 640, 100 * 640 + 7])
def test_pieces_equal_the_whole(quick, samples):
    """To the last digits, sound that goes on after the pictures included: what lies there is no window of the clip."""
    draw = np.random.default_rng(2)
    pictures = torch.from_numpy(draw.integers(0, 256, (80, 3, 224, 224), dtype=np.uint8))
    sound = draw.integers(-9000, 9000, samples).astype(np.int16)
    audio = quick.embed_audio(compute_mfcc(torch.from_numpy(sound)))[:75]
    expected = offset_distances(quick.embed_video(pictures)[:75], F.pad(audio, (0, 0, 15, 15)))
    assert torch.allclose(fed(quick, pictures, sound).distances(), expected, rtol=1e-6)


def planted(windows, late, dimensions=8):
    """Embeddings whose audio is so many frames late, and the audio around them."""
    draw = np.random.default_rng(1)
    whole = torch.from_numpy(draw.normal(size=(windows + 60, dimensions)))
    return whole[30 : 30 + windows], whole[15 - late : 45 - late + windows]


@pytest.mark.parametrize("late", [-15, -3, 0, 7, 15])
def test_offset_is_positive_when_the_audio_is_late(late):
    lse = summarise(offset_distances(*planted(50, late)))
    assert lse.offset == late
    assert lse.lse_d == pytest.approx(0, abs=1e-4)
    assert lse.lse_c > 1


def test_close_embeddings_do_not_cancel():
    """Distances of 0.01 between embeddings of length 1000."""
    video = torch.full((1, 1000), 31.6)
    audio = video.repeat(31, 1) + 0.01 / 1000**0.5
    expected = F.pairwise_distance(video.double(), audio.double())
    # float64 leaves 1e-4 here, depending on the order of the sums; float32 would leave nothing
    assert torch.allclose(offset_distances(video, audio)[0], expected, rtol=1e-3)


def test_invented_pairs_move_the_confidence_and_missing_ones_do_not():
    """With zeros at the ends LSE-C depends on the length of the clip; without, on its content alone."""
    video, audio = planted(400, 0)
    distances = offset_distances(video, audio)
    whole, short = summarise(distances), summarise(distances[:30])
    assert short.lse_c == pytest.approx(whole.lse_c, rel=0.1)
    reach = torch.arange(30)[:, None] + torch.arange(-15, 16)
    padded = torch.where((reach >= 0) & (reach < 30), distances[:30], video[:30].norm(dim=1, keepdim=True))
    assert summarise(padded).lse_c < 0.95 * whole.lse_c


def test_wrong_input(syncnet):
    with pytest.raises(ValueError, match=r"expected at least 6 frames \(0.24 s\) with audio, got 0"):
        LseMeter(syncnet, np.zeros(9999, np.int16)).distances()
    with pytest.raises(ValueError, match=r"with audio, got 1"):
        fed(syncnet, torch.zeros(8, 3, 224, 224, dtype=torch.uint8), np.zeros(700, np.int16)).distances()
    with pytest.raises(ValueError, match=r'edge: expected "legacy" or "valid", got \'zero\''):
        LseMeter(syncnet, np.zeros(9999, np.int16)).distances("zero")
    with pytest.raises(ValueError, match=r"expected \(W, D\) and \(W \+ 30, D\), got \(5, 8\) and \(34, 8\)"):
        offset_distances(torch.zeros(5, 8), torch.zeros(34, 8))
    with pytest.raises(ValueError, match="at least one pair, got none"):
        summarise(torch.full((3, 31), torch.nan))
