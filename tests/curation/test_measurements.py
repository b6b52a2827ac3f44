"""Measurements of known waveforms and frames."""

import numpy as np
import pytest

from unisync_loss.curation.measurements import measure_audio, measure_face, measure_movement


def test_known_waveforms():
    times = np.arange(48000) / 16000
    tone = (0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    facts = measure_audio(tone)
    assert facts["level"] == pytest.approx(0.1 / np.sqrt(2), rel=0.01)
    assert facts["held"] > 0.9
    assert (facts["silence"], facts["pauses"]) == (0, 0)
    gated = measure_audio(tone * (times % 1 < 0.52))  # 13 of 25 frames
    assert gated["silence"] == pytest.approx(0.48, abs=1e-3)
    assert gated["pauses"] == pytest.approx(0.48, abs=0.01)
    sweep = np.sin(2 * np.pi * (200 + 400 * times) * times).astype(np.float32)  # a glide is not held
    assert measure_audio(sweep)["held"] < 0.2
    assert measure_audio(np.zeros(48000, np.float32))["level"] == 0


def test_movement_of_known_cells():
    cells = np.zeros((30, 16, 16, 3), np.float32)
    assert measure_movement(cells) == {"moves": 0.0, "repeats": 1.0}
    cells[:, 3, 4] = 10.0 * np.arange(30)[:, None]
    assert measure_movement(cells) == {"moves": 60.0, "repeats": 0.0}
    assert measure_movement(cells[np.arange(30) // 2])["repeats"] == pytest.approx(15 / 29, abs=1e-3)


def test_a_clip_without_a_face():
    face = measure_face(np.zeros((4, 64, 64, 3), np.uint8), np.full((4, 468, 2), np.nan, np.float32))
    assert face.facts == {"face_found": 0.0}
    assert face.portrait is None
