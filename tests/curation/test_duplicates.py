"""Copies are found at their lag however they were trimmed and encoded; strangers are not."""

import numpy as np
import pytest

from tools.synthetic.voice import random_sentence, random_voice, synthesize_voice
from unisync_loss.curation.duplicates import (
    GRID,
    Repeat,
    audio_fingerprint,
    confirm_repeats,
    find_repeats,
    frame_fingerprint,
    shrink_frames,
)


@pytest.fixture(scope="module")
def voices():
    def speak(seed):
        draw = np.random.default_rng(seed)
        voice = random_voice(draw)
        return synthesize_voice(draw, voice, random_sentence(draw, voice, 3.0))

    return [speak(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def films():
    """Blobs that wander on a wall, (75, 16, 16, 3) each."""
    rows, columns = np.mgrid[:GRID, :GRID]

    def film(seed):
        draw = np.random.default_rng(seed)
        paths = 8 + np.cumsum(draw.normal(0, 0.7, (75, 4, 2)), axis=0)
        far = (rows - paths[:, :, :1, None]) ** 2 + (columns - paths[:, :, 1:, None]) ** 2
        light = 60 + 120 * np.exp(-far / 6).sum(1)
        return light[..., None].repeat(3, -1).astype(np.float32)

    return [film(seed) for seed in range(6)]


def test_a_trimmed_and_quieter_sound_is_found_at_its_lag(voices):
    noise = np.random.default_rng(9).normal(0, 1e-3, 48000).astype(np.float32)
    copy = 0.4 * (voices[2] + noise)[4000:44000]
    (repeat,) = find_repeats([audio_fingerprint(voice) for voice in [*voices, copy]])
    assert (repeat.first, repeat.second) == (2, 6)
    assert repeat.lag == pytest.approx(0.25, abs=0.011)
    assert repeat.equal > 0.85
    assert 1.0 < repeat.seconds <= 2.51


def test_trimmed_and_lighter_pictures_are_found_at_their_lag(films):
    noise = np.random.default_rng(9).normal(0, 0.5, films[3].shape)
    copy = (1.1 * films[3] + 12 + noise)[10:].astype(np.float32)
    (repeat,) = find_repeats([frame_fingerprint(film) for film in [*films, copy]])
    assert (repeat.first, repeat.second) == (3, 6)
    assert repeat.lag == pytest.approx(0.4, abs=1e-6)
    assert repeat.equal > 0.85


def test_what_noise_hides_is_borne_out_where_the_lag_is_known(films):
    noise = np.random.default_rng(9).normal(0, 30, films[3].shape)
    prints = [frame_fingerprint(film) for film in [*films, (films[3] + noise)[10:].astype(np.float32)]]
    assert find_repeats(prints) == []
    found = [Repeat(first, 6, 0.4, 2.6, 0.9) for first in range(6)]
    assert [repeat.first for repeat in confirm_repeats(prints, found)] == [3]


def test_what_shares_less_than_a_second_is_no_copy(voices):
    other = np.concatenate([voices[0][-12000:], voices[1]])
    found = find_repeats([audio_fingerprint(voices[0]), audio_fingerprint(other)])
    assert found == []


def test_silence_and_stills_are_alike_but_no_copies(films):
    silent, still = audio_fingerprint(np.zeros(48000, np.float32)), frame_fingerprint(films[0][:1].repeat(75, 0))
    assert not silent.informative.any()
    assert not still.informative.any()
    assert find_repeats([silent, silent]) == find_repeats([still, still]) == find_repeats([]) == []


def test_pictures_are_shrunk_to_means_of_cells():
    frames = np.random.default_rng(0).integers(0, 255, (2, 8, 12, 3), dtype=np.uint8)
    expected = frames.reshape(2, 4, 2, 4, 3, 3).mean((2, 4))
    assert shrink_frames(frames, 4) == pytest.approx(expected, abs=1e-4)
