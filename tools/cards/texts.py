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
#: of experts trained on adversarial changes of the pixels
ROBUST = """\
For training generators: its gradient has no colour, and small changes of the pixels that are no lip movement raise its
probability less than that of [{plain}](../{plain}/README.md), which is the better expert for measuring."""
#: of experts that subtract the mean over the frames
MEAN_FACE = """\
The mean of the T frames given is subtracted from each frame, which removes the shape of the individual face: give
whole clips, or at least one second. The figures below are for whole clips;
[docs/scores.md](../../../docs/scores.md#pairs) has those of shorter segments."""

#: the expert whose card describes the data and the limits of all
FIRST = "whisper-rgb"
DATA = """\
`TRAIN`: 2,642 face clips of 245 people, 134 minutes: 1,682 of Arabic news (lrc_ar), 464 of 149 people who film
themselves with phones and webcams in many languages, 150 of GRID s1, the others short English, Hindi, Telugu and
Turkish clips from demonstration videos of talking-face projects (among them parts of LRS2, LRS3, VoxCeleb2,
AVSpeech). Audio offsets were corrected per video or clip. `VAL`: 295 clips of 63 other people, of whom 22 film
themselves. Much of the footage is licensed for research only: treat these weights as research-only, too."""
SAME_DATA = """\
The data of [{first}](../{first}/README.md). Much of it is licensed for research only: treat these weights as
research-only, too."""

_FROZEN = """\
`unisync train --data TRAIN --val VAL --audio whisper --visual {visual} --init {init}
run.freeze=audio recipe.clips=16 recipe.segments=4 recipe.steps={steps}` against the frozen audio tower, seed 0, one
CPU core."""

#: how each tower was trained, audio towers by representation and visual ones by the name after the first hyphen; all
#: experts share one embedding space
AUDIO_TOWERS = {
    "whisper": """\
first together with a tower on landmarks (`unisync train --data TRAIN --val VAL --audio whisper --visual landmarks
recipe.clips=16 recipe.segments=4 recipe.steps=600`), then with the RGB tower, as
[whisper-rgb](../whisper-rgb/README.md) describes; seed 0, CPU cores.""",
    "mel": """\
`python -m research.audio_students --teacher whisper-rgb --student mel --init mel-rgb --steps 600 --batch-seconds 33`:
it learned the audio embeddings of whisper-rgb on 5.9 hours of speech of about 800 people (open corpora, and the voices
of `TRAIN`), from 0.2 s of mel alone; it started from the tower of mel-rgb 0.1. Seed 0, one CPU core.""",
    "hubert": """\
`python -m research.audio_students --teacher whisper-rgb --student hubert --hubert HUBERT`: together with
[hubert-small](../hubert-small/README.md), it learned the audio embeddings of whisper-rgb on 5.9 hours of speech of
about 800 people (open corpora, and the voices of `TRAIN`); then sync against the frozen RGB tower (`unisync train
--audio hubert --visual rgb run.freeze=visual recipe.clips=10 recipe.segments=4 recipe.steps=250
recipe.learning_rate=4e-4`). Seed 0, one CPU core.""",
}
VISUAL_TOWERS = {
    "rgb": """\
`unisync train --data TRAIN --val VAL --audio whisper --visual rgb --init LANDMARKS --init mel-rgb recipe.clips=10
recipe.segments=4 recipe.steps=1600`, seed 0, on CPU cores. It started from the visual tower of mel-rgb 0.1, which was
trained in the four stages of `unisync train` on 92 minutes of 96 people, and from the audio tower of `LANDMARKS`, an
expert on Whisper and landmarks. Both towers were trained.""",
    "rgb-robust": """\
`unisync train --data TRAIN --val VAL --audio whisper --visual rgb --init whisper-rgb run.freeze=audio
expert.colour=false recipe.clips=10 recipe.segments=4 recipe.steps=900 recipe.learning_rate=5e-4
recipe.perturbation=0.018 recipe.perturbed=0.8`, seed 0, on a CPU core (shortened to 700 steps after 404; the last
weights, not the best on `val`): the mouth crops of four segments in five were
changed by up to 4.6 of 255 so that the loss rose, and colours were left out.""",
    "parsing": _FROZEN.format(visual="parsing", init="mel-parsing --init whisper-rgb", steps=250)
    + "\nIt started from the visual tower of mel-parsing 0.1; learning rate 7e-4.",
    "landmarks": _FROZEN.format(visual="landmarks", init="LANDMARKS --init whisper-rgb", steps=500)
    + "\n`LANDMARKS`: see the audio tower.",
    "3dmm": _FROZEN.format(visual="3dmm", init="whisper-rgb", steps=500),
}
CHOICE = "Checkpoint and threshold were chosen on `val`."

LIMITS = """\
Five frames of a closed or still mouth carry no information about sync: compare the windows without speech. Few
speakers, mostly frontal faces, mostly Arabic and English; beards, profiles, strong compression and singing are rare
in training. The zero offset is that of the training corpora, within one frame of the physical one. The probability is
the paper's cosine, not a calibrated frequency. A generator trained with this loss scores too high with it: evaluate
with another measure, too."""
