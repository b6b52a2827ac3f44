"""Configuration of an expert: representations, architecture and input contract; constants of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Literal, get_args, get_type_hints

AudioRepresentation = Literal["mel", "hubert", "whisper"]
VisualRepresentation = Literal["rgb", "parsing", "landmarks", "3dmm"]
Architecture = Literal["paper", "small"]

SAMPLE_RATE = 16_000  # Hz, of every waveform
FPS = 25  # video frames per second
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
WINDOW_FRAMES = 5  # 0.2 s, the paper's section III-B
#: audio steps per second: mel hop 200 of 16 kHz, stride 320 of HuBERT and of Whisper
STEP_RATE: dict[str, int] = {"mel": 80, "hubert": 50, "whisper": 50}
#: audio steps in a window of 0.2 s
WINDOW_STEPS: dict[str, int] = {name: rate * WINDOW_FRAMES // FPS for name, rate in STEP_RATE.items()}
#: samples from one audio step to the next
SAMPLES_PER_STEP: dict[str, int] = {name: SAMPLE_RATE // rate for name, rate in STEP_RATE.items()}
#: features of one audio step, where the representation fixes or suggests them
AUDIO_FEATURES: dict[str, int] = {"mel": 80, "hubert": 1024, "whisper": 512}
#: of an embedding, an audio step or a frame: several times a face mesh's; a config that asks for more is no expert's
MOST_FEATURES = 65_536
#: channels of a parsing map; the classes of any parser are mapped to these groups
PARSING_GROUPS = ("other", "skin", "nose", "upper_lip", "lower_lip", "mouth")
#: features of one video frame: colour channels, parsing groups, 68 points in 2-D, BFM expression coefficients
VISUAL_FEATURES: dict[str, int] = {"rgb": 3, "parsing": len(PARSING_GROUPS), "landmarks": 136, "3dmm": 64}
#: points and axes of a frame's landmarks, by the number of coordinates
LANDMARK_SHAPES = {points * axes: (points, axes) for points in (68, 20, 468, 478) for axes in (2, 3)}
#: usual model of the audio features and its revision; that of HuBERT is the model of GeneFace's features
AUDIO_MODELS: dict[str, tuple[str, str]] = {
    "hubert": ("facebook/hubert-large-ls960-ft", "ece5fabbf034c1073acae96d5401b25be96709d8"),
    "whisper": ("whisper-base", "main"),  # bundled; an expert trained on it names the sha256 of its weights
}
#: fields of ``config.json`` files saved before the release of 0.1.0, with the one value that each had
RETIRED_FIELDS: dict[str, object] = {
    "channel_order": "rgb",
    "value_range": [0.0, 1.0],
    "crop": "one face, forehead to chin or up to 1.8 times that, eyes level to about 20 degrees",
}
#: earlier names of fields, which experts on mel had, too, without a meaning
RENAMED_FIELDS = {"hubert_model": "audio_model", "hubert_revision": "audio_revision", "hubert_layer": "audio_layer"}
#: fields that earlier versions did not have, with the value of all experts of that time
ADDED_FIELDS = {"colour": True, "temperature": 0.0, "midpoint": 0.5}
#: fields that describe the input of one side, besides the name of its representation
SIDE_FIELDS = {
    "audio": ("audio_features", "mel_padding", "audio_model", "audio_revision", "audio_layer"),
    "visual": ("visual_features", "colour"),
}


@dataclass(frozen=True, kw_only=True)
class UniSyncConfig:
    """Configuration of an expert, saved as ``config.json`` beside the weights.

    Args:
        audio: audio representation, ``"mel"``, ``"hubert"`` or ``"whisper"``.
        visual: visual representation, ``"rgb"``, ``"parsing"``, ``"landmarks"`` or ``"3dmm"``.
        architecture: ``"paper"`` (16.3 M parameters, arXiv 2503.16357 Table III) or ``"small"`` (per-frame visual
            trunk and dense audio convolutions, under 5 M).
        embedding: size D of both embeddings.
        audio_features: features of one audio step; 0 takes the usual number of the representation.
        visual_features: features of one frame (colour channels, parsing groups, points x dimensions, coefficients);
            0 takes the usual number of the representation.
        colour: whether a ``"small"`` expert on rgb takes colours; False takes the mean of red, green and blue, so that
            its gradient has no colour.
        mel_padding: STFT padding, ``"reflect"`` (librosa before 0.9, Wav2Lip's released weights) or ``"constant"``.
        audio_model: the pretrained encoder of the audio features: ``owner/name`` on the Hub, a bundled name or a
            folder; empty takes the usual one of the representation. A mel spectrogram has none.
        audio_revision: commit of that model on the Hub, or sha256 of weights on this disk; a branch or tag may point
            to another model later. Empty is the pinned revision of the usual model, ``"main"`` of any other.
        audio_layer: of that model, as in ``hidden_states`` of transformers; -1 is ``last_hidden_state``.
        margin_same: eq. 1 margin of same-speaker negatives in training.
        margin_cross: eq. 1 margin of cross-speaker negatives in training.
        threshold: decision threshold of this checkpoint, chosen on validation data.
        temperature: of this checkpoint's calibration, fitted on validation data, see
            :func:`unisync_loss.functional.calibrated_probability`; 0 for a checkpoint without.
        midpoint: of the same.

    Raises:
        ValueError: for a value outside its choices or range.

    Example:
        >>> UniSyncConfig(audio="mel", visual="rgb").window_steps
        16
    """

    audio: AudioRepresentation = "mel"
    visual: VisualRepresentation = "rgb"
    architecture: Architecture = "small"
    embedding: int = 512
    audio_features: int = 0
    visual_features: int = 0
    colour: bool = True
    mel_padding: Literal["reflect", "constant"] = "reflect"
    audio_model: str = ""
    audio_revision: str = ""
    audio_layer: int = -1
    margin_same: float = 0.1
    margin_cross: float = 0.3
    threshold: float = 0.5
    temperature: float = 0.0
    midpoint: float = 0.5

    def __post_init__(self) -> None:
        """Fill in the usual feature counts and audio model, and check every choice and range."""
        hints = get_type_hints(UniSyncConfig)
        for name in ("audio", "visual", "architecture", "mel_padding"):
            choices = get_args(hints[name])
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        usual = {"audio_features": AUDIO_FEATURES[self.audio], "visual_features": VISUAL_FEATURES[self.visual]}
        for name in ("embedding", "audio_features", "visual_features"):
            value = getattr(self, name)
            least = 0 if name in usual else 1
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_FEATURES:
                raise ValueError(f"{name}: expected a whole number from 1 to {MOST_FEATURES}, got {value!r}")
            object.__setattr__(self, name, value or usual[name])
        for name in ("margin_same", "margin_cross", "threshold", "temperature", "midpoint"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")
        if not isinstance(self.colour, bool) or not (self.colour or self.has_mouth_aligner):
            raise ValueError(f"colour: expected true, or false for a small expert on rgb, got {self.colour!r}")
        self._fill_audio_model()
        if self.audio == "mel" and self.audio_features != AUDIO_FEATURES["mel"]:
            raise ValueError(f"audio_features: expected 80 mel bins, got {self.audio_features}")
        if self.visual == "rgb" and self.visual_features != VISUAL_FEATURES["rgb"]:
            raise ValueError(f"visual_features: expected 3 colour channels, got {self.visual_features}")
        if self.visual == "parsing" and self.visual_features != VISUAL_FEATURES["parsing"]:
            raise ValueError(
                f"visual_features: expected {len(PARSING_GROUPS)} groups of a face, got {self.visual_features}"
            )
        if self.visual == "landmarks" and self.visual_features not in LANDMARK_SHAPES:
            raise ValueError(
                "visual_features: expected 68, 20, 468 or 478 landmarks times 2 or 3 axes, one of "
                f"{', '.join(map(str, LANDMARK_SHAPES))}, got {self.visual_features}"
            )

    def _fill_audio_model(self) -> None:
        """Fill in model and revision, or check that a mel spectrogram has none."""
        for name, kind in (("audio_model", str), ("audio_revision", str), ("audio_layer", int)):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")
            if self.audio == "mel" and value not in ("", -1):
                raise ValueError(f"{name}: expected none for mel, which no model computes, got {value!r}")
        if self.audio != "mel":
            usual, pinned = AUDIO_MODELS[self.audio]
            model = self.audio_model or usual
            object.__setattr__(self, "audio_model", model)
            object.__setattr__(self, "audio_revision", self.audio_revision or (pinned if model == usual else "main"))

    @property
    def window_steps(self) -> int:
        """Audio steps in one window."""
        return WINDOW_STEPS[self.audio]

    @property
    def has_mouth_aligner(self) -> bool:
        """Whether the expert finds and crops the mouth in each image by itself: ``small`` on RGB."""
        return self.visual == "rgb" and self.architecture == "small"

    @property
    def steps_per_frame(self) -> Fraction:
        """Audio steps per video frame: 16/5 for mel, 2 for HuBERT and Whisper."""
        return Fraction(STEP_RATE[self.audio], FPS)

    def first_step(self, frame: int) -> int:
        """Audio step at which the window that begins with a frame begins, floor(3.2 f) for mel, as Wav2Lip cuts it."""
        return frame * STEP_RATE[self.audio] // FPS

    @property
    def name(self) -> str:
        """Name of the pair, such as ``"mel-rgb"``."""
        return f"{self.audio}-{self.visual}"

    def to_json(self) -> str:
        """Return the config as JSON text, one field per line."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UniSyncConfig:
        """Build a config from a mapping, refusing unknown fields.

        Args:
            values: by field, also as earlier versions saved them, see :func:`current_fields`.

        Raises:
            ValueError: for an unknown field, a retired field with another value, or a value out of range.
        """
        values = current_fields(values)
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"config: unknown fields {', '.join(unknown)}; expected some of {', '.join(sorted(known))}"
            )
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> UniSyncConfig:
        """Build a config from JSON text.

        Raises:
            ValueError: for text that is not a JSON object, an unknown field, or a value out of range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"config: expected a JSON object, got text that does not parse ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"config: expected a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)


def current_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the fields of a config that an earlier version saved to today's.

    Args:
        values: by field; :data:`RETIRED_FIELDS` are dropped if they have the one value of their time,
            :data:`RENAMED_FIELDS` get their new name, and for mel their default; :data:`ADDED_FIELDS` are filled in.

    Raises:
        ValueError: for a retired field with another value.
    """
    for name, value in RETIRED_FIELDS.items():
        if name in values and values[name] != value:
            raise ValueError(f"{name}: expected {value!r}, got {values[name]!r}")
    current = ADDED_FIELDS | {name: value for name, value in values.items() if name not in RETIRED_FIELDS}
    for old, new in RENAMED_FIELDS.items():
        if old in current and new not in current:
            value = current.pop(old)
            current[new] = getattr(UniSyncConfig, new) if current.get("audio", "mel") == "mel" else value
    return current
