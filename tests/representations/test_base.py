"""Base classes of representations: every representation refuses what is not a tensor of its shape and type."""

import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.representations import audio_input, visual_input

EVERY = {"rgb": "mel", "parsing": "hubert", "landmarks": "mel", "3dmm": "hubert"}


@pytest.mark.parametrize(("visual", "audio"), list(EVERY.items()))
@pytest.mark.parametrize(
    ("value", "got"),
    [("speech.wav", "got str"), (None, "got NoneType"), (torch.zeros(7, dtype=torch.int16), r"got \(7,\) torch.int16")],
    ids=["a path", "nothing", "another shape and type"],
)
def test_other_inputs_are_refused(visual, audio, value, got):
    config = UniSyncConfig(visual=visual, audio=audio)
    with pytest.raises(ValueError, match=f"video: expected {visual} as .*{got}"):
        visual_input(config)(value)
    with pytest.raises(ValueError, match=rf"audio: expected a waveform \(B, S\) .* or {audio} features.*{got}"):
        audio_input(config)(value)
