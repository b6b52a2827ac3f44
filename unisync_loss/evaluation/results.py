"""Types of the JSON that ``unisync eval`` and ``unisync score`` write.

Intervals are ``[low, high]``, 95 %. Offsets are in frames of 40 ms, positive = audio is late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypedDict, final

if TYPE_CHECKING:
    from typing_extensions import NotRequired

# `eval`; keys with a dot need the functional syntax
PairResult = TypedDict(
    "PairResult",
    {
        "accuracy_at_0.5": float,
        "accuracy": float,  # at the checkpoint's own threshold
        "auc": float,
        "threshold": float,
        "n": int,  # pairs, half of them negatives
        "ci95": list[float],
        "ci95_accuracy_at_0.5": list[float],
        "ci95_auc": list[float],
    },
)
DetectionResult = TypedDict(
    "DetectionResult",
    {
        "accuracy_at_0.5": float,
        "accuracy": float,
        "threshold": float,
        "n": int,  # negatives
        "ci95": list[float],
        "ci95_accuracy_at_0.5": list[float],
    },
)


class RetrievalResult(TypedDict):
    """Accuracy of ``retrieval@K`` over ``n`` runs of windows."""

    accuracy: float
    ci95: list[float]
    n: int


class CalibrationResult(TypedDict):
    """Calibrated probabilities of the pairs; ``predicted`` and ``observed`` frequency by bins of equally many pairs."""

    temperature: float
    midpoint: float
    error_of_score: float  # expected calibration error of the cosine, before calibration
    error: float
    ci95_error: list[float]
    predicted: list[float]
    observed: list[float]


class GroupResult(TypedDict):
    """Accuracy and AUC of the pairs of a corpus, a language, or a kind of window."""

    accuracy: float
    auc: float
    n: int


class SkippedClip(TypedDict):
    """Clip that could not be embedded."""

    clip: str
    reason: str


class ProtocolResult(TypedDict):
    """What every protocol gives for one model, see :func:`unisync_loss.evaluation.report.summarise`."""

    model: str
    clips: int
    left_out: list[SkippedClip]
    speakers: int
    seed: int
    protocol: str
    pairs: PairResult
    cross_speaker: PairResult | None
    detection: DetectionResult
    calibration: CalibrationResult | None  # None for a model without
    voiced: GroupResult | None
    unvoiced: GroupResult | None
    retrieval: dict[str, RetrievalResult]  # by K
    offset_within_1: float  # share of clips
    by_corpus: dict[str, GroupResult]
    by_language: dict[str, GroupResult]


class EvalReport(ProtocolResult):
    """JSON of ``unisync eval``."""

    audio: str
    visual: str


class WindowGroup(TypedDict):
    """Means over the voiced or the unvoiced windows of a face; None where there is none."""

    probability_mean: float | None
    share_in_sync: float | None


class LocalOffset(TypedDict):
    """Offset of one segment of 4 s."""

    seconds: float  # its middle, from the start of the video
    offset_frames: int
    confidence: float


class TrackResult(TypedDict):
    """Measures of one face, see :func:`unisync_loss.evaluation.video_summary.summarise_track`."""

    track: int
    start: float
    seconds: float
    offset_frames: int
    offset_ms: int
    offset_ci95: list[int]
    offset_agreement: float
    confidence: float
    probability_mean: float | None
    probability_mean_at_offset: float | None
    calibrated_mean: float | None  # of calibrated probabilities at offset 0; None for experts without a calibration
    calibrated_mean_at_offset: float | None
    share_in_sync: float | None
    voiced: WindowGroup
    unvoiced: WindowGroup
    voiced_share: float
    drift_ms_per_minute: float | None
    drift_ci95: list[float] | None
    offset_over_time: list[LocalOffset]
    probability: list[float | None]
    fps: int
    speaking_share: float | None


@final
class ScoredVideo(TypedDict):
    """Measures of a video; ``group`` is the path that it was found by."""

    video: str
    seconds: float
    speaker_track: int | None
    tracks: list[TrackResult]
    dropped: list[str]
    notes: list[str]
    group: NotRequired[str]
    sync_matrix: NotRequired[str]  # with a report: name of the NPZ file


@final
class FailedVideo(TypedDict):
    """Video that could not be scored."""

    video: str
    group: str
    error: str


VideoResult: TypeAlias = ScoredVideo | FailedVideo


class Difference(TypedDict):
    """Means of one measure over pairs of videos."""

    real: float
    generated: float
    difference: float  # generated minus real
    ci95: list[float] | None  # None for a single pair
    better: str  # "higher" or "lower"


class Comparison(TypedDict):
    """One group of generated videos against the real ones."""

    group: str
    pairs: int
    unpaired: int
    measures: dict[str, Difference]


class ScoreReport(TypedDict):
    """JSON of ``unisync score``."""

    model: str
    threshold: float
    seed: int
    videos: list[VideoResult]
    comparison: NotRequired[list[Comparison]]
