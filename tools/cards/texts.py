"""Paragraphs of the model cards: what each representation takes, how each tower was trained, and the limits.

Only what no result file holds. Braces are filled in from the config of the expert.
"""

from __future__ import annotations

#: what an expert takes, in its first sentence
VISUAL_NAMES = {
    "rgb": "a face crop (RGB, any size, 25 fps)",
    "parsing": "a face-parsing map (25 fps)",
    "landmarks": "landmarks of a face (any units, 25 fps)",
    "3dmm": "expression coefficients (25 fps)",
}
AUDIO_NAMES = {
    "mel": "audio (16 kHz, Wav2Lip's mel spectrogram)",
    "hubert": "audio (16 kHz, features of `{model}`)",
    "whisper": "audio (16 kHz, features of `{model}`)",
}

VISUAL_INPUT = {
    "rgb": """\
`video` {shape}, RGB in [0, 1], 25 fps, T at least 5, one face: a tight box, or up to 1.8 times its size. The expert
locates the mouth itself.""",
    "parsing": """\
`video` {shape} probabilities, or labels (B, T, H, W), of other, skin, nose, upper lip, lower lip and mouth
(`mouth_groups` converts the classes of BiSeNet, SegFormer or any parser with nose and lips), one face, 25 fps, T at
least 5. Probabilities need 128 pixels per side, labels 256. Trained on maps rendered from MediaPipe's mesh: maps of a
parsing network differ at the edges.""",
    "landmarks": """\
`video` {shape}: landmarks in iBUG order, x to the right and y down, in pixels or any unit that is equal on all axes,
25 fps, T at least 5. Position, size and roll of the head are normalised inside. Trained on MediaPipe's mesh at these
points: other detectors differ slightly.""",
    "3dmm": """\
`video` {shape}: coefficients of this package's own linear face model (`unisync_loss.video.expressions`), fitted to
MediaPipe's mesh, 25 fps, T at least 5; their mean and standard deviation are stored. Coefficients of BFM or FLAME do
not fit: train an expert on those (`unisync train --visual 3dmm expert.visual_features=64`).""",
}
AUDIO_INPUT = {
    "mel": """\
`audio`: a waveform (B, 640·T) at 16 kHz, or Wav2Lip's mel spectrogram {shape}, L at least 16 + 3.2·(T - 5).""",
    "hubert": """\
`audio`: a waveform (B, 640·T) at 16 kHz, preferably of whole clips, or features {shape} of
[`{model}`](../{model}/README.md). Features of other HuBERT models do not fit: train an expert on those (`unisync
train --audio hubert --audio-model facebook/hubert-large-ls960-ft …`).""",
    "whisper": """\
`audio`: a waveform (B, 640·T) at 16 kHz, preferably of whole clips, or features {shape} of
[`{model}`](../{model}/README.md). Features of other Whisper models, or of another layer, do not fit: train an expert
on those (`unisync train --audio whisper --audio-model openai/whisper-tiny …`).""",
}
#: of experts that subtract the mean over the frames
MEAN_FACE = """\
The mean of the T frames given is subtracted from each frame, which removes the shape of the individual face: give
whole clips, or at least one second. The figures below are for whole clips;
[docs/scores.md](../../../docs/scores.md#pairs) has those of shorter segments."""

#: the expert whose card describes the data and the limits of all
FIRST = "mel-rgb"
DATA = """\
92 minutes of face clips of 96 people: Arabic news (lrc_ar), GRID s1, and short English, Hindi, Telugu, Polish and
Turkish clips from talking-face projects' demonstration videos (among them parts of LRS2, LRS3, VoxCeleb2, AVSpeech),
audio offsets corrected per video or clip; and 72 drawn clips of 24 synthetic speakers (`python -m tools.synthetic`).
Much of the real footage is licensed for research only: treat these weights as research-only, too."""
SAME_DATA = """\
The data of [{first}](../{first}/README.md). Much of it is licensed for research only: treat these weights as
research-only, too."""

#: how each tower was trained, by its representation; all experts share one embedding space
AUDIO_TOWERS = {
    "mel": """\
trained together with the RGB tower, as [mel-rgb](../mel-rgb/README.md) describes.""",
    "hubert": """\
`unisync train --data TRAIN --data DRAWN --val VAL --audio hubert --audio-model hubert-small --init mel-rgb
run.freeze=visual recipe.clips=16 recipe.steps=600 recipe.learning_rate=5e-4` against a frozen visual tower, seed 0,
one CPU core; it started from the tower that was trained together with [hubert-small](../hubert-small/README.md).""",
}
VISUAL_TOWERS = {
    "rgb": """\
`unisync train`, seed 0, on CPU cores, in stages: face pose (3,000 steps), the mouth's motion from pixels (800), sync
from the measured motion (1,000 steps of 32 clips x 2 segments x 9 windows), everything except the pose together from
pixels (1,200 such steps at 7e-4). The last stage was repeated from there (1,500 steps at 7e-4, weight decay 0.2) with
stronger augmentation: half of the clips at another tempo (0.85 to 1.18), mouths warped, the static part of another
face mixed in, a sixth of the frame features masked, more voices modified. Before that, the offsets of the training
clips were estimated once more by the network itself. The first three stages train different networks and were run in
parallel; there, and in the first 1,200 steps, weight decay was 0.05 or less. Exponential moving average of the
weights.""",
    "parsing": """\
`unisync train --data TRAIN --data DRAWN --val VAL --audio mel --visual parsing --init mel-rgb run.freeze=audio
recipe.clips=16 recipe.steps=600 run.val_every=200` against the frozen mel tower, seed 0, one CPU core, eleven
minutes.""",
    "landmarks": """\
`unisync train --data TRAIN --data DRAWN --val VAL --audio mel --visual landmarks --init mel-rgb run.freeze=audio
recipe.clips=16 recipe.steps=1000 run.val_every=250` against the frozen mel tower, seed 0, one CPU core, four
minutes.""",
    "3dmm": """\
`unisync train --data TRAIN --data DRAWN --val VAL --audio mel --visual 3dmm --init mel-rgb run.freeze=audio
recipe.clips=16 recipe.steps=1000 run.val_every=250` against the frozen mel tower, seed 0, one CPU core, four
minutes.""",
}
CHOICE = "Checkpoint and threshold were chosen on `val`."

LIMITS = """\
Five frames of a closed or still mouth carry no information about sync: compare the windows without speech. Few
speakers, mostly frontal faces, mostly Arabic and English; beards, profiles, strong compression and singing are rare
in training. The zero offset is that of the training corpora, within one frame of the physical one. The probability is
the paper's cosine, not a calibrated frequency. A generator trained with this loss scores too high with it: evaluate
with another measure, too."""
