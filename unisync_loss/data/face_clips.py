"""Clips of one input: faces tracked, cropped and measured, with their audio, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.data.datasets import NUMBERED_IMAGE, Source
from unisync_loss.data.sidecar import read_sidecar
from unisync_loss.representations.face_topology import MESH_POINTS
from unisync_loss.utils.files import load_hook
from unisync_loss.video.audio_decoding import AudioReader, stream_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.decoding import TimedFrame, open_media, read_facts, stream_frames, video_stream
from unisync_loss.video.face_detection import Boxes, FaceFinder, Frame, shared_finder
from unisync_loss.video.face_mesh import FEWEST_FACES, face_mesh
from unisync_loss.video.face_tracking import CROP_SIZE, SHORTEST_TRACK, TrackPiece, track_faces
from unisync_loss.video.voicing import is_silent

CLIP_FRAMES = 250  # 10 s, of a clip cut from a longer track; the last may have up to SHORTEST_TRACK more
_MESH_SHAPES = (MESH_POINTS, 3), (478, 3)  # MediaPipe's, without and with irises
_SHORT_SIDE = 1080  # pixels to which larger frames are shrunk: a crop of 192 needs no more


class FaceClip(NamedTuple):
    """A clip ready for the store.

    Attributes:
        facts: track, start in seconds, frames, size of the crop in the source, fraction of frames with landmarks.
        clip: frames (T, 192, 192, 3) and waveform (640 T,).
        features: ``mesh`` (T, 468, 3) float16 of :func:`unisync_loss.video.face_mesh.face_mesh`, unless landmarks of
            another kind were given; ``boxes`` (T, 4) float32 pixels of the source; and what the provider added,
            (T, …) each.
    """

    facts: dict[str, Any]
    clip: Clip
    features: dict[str, NDArray[Any]]


@dataclass
class Outcome:
    """Result of an input besides its clips; filled while the clips are made.

    Attributes:
        problem: why it could not be read to its end.
        dropped: segments with a face that gave no clip, with the reason.
        facts: of the file, see :func:`unisync_loss.video.decoding.read_facts`.
        transient: the problem is not in the content of the file (permissions, a crashed process): worth another try.
    """

    problem: str = ""
    dropped: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    transient: bool = False

    def drop(self, frame: int, reason: str) -> None:
        """Record a skipped segment."""
        self.dropped.append(f"{frame / FPS:.1f} s: {reason}")


@dataclass
class _Track:
    """Crops of a track, collected until they fill a clip."""

    number: int
    start: int
    crops: list[Frame] = field(default_factory=list)
    squares: list[Boxes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # frame numbers of the file


def clips_of(
    source: Source, outcome: Outcome, provider: str | None = None, *, threads: bool = True
) -> Iterator[FaceClip]:
    """Make the clips of one input.

    Args:
        source: of `unisync_loss.data.datasets.list_sources`.
        outcome: filled while the clips are made.
        provider: ``module:function`` that takes frames (T, 192, 192, 3) and waveform (640 T,) and returns further
            features by name, (T, …) each; ``3dmm`` and ``parsing`` are read again by
            :func:`unisync_loss.data.clips.clip_features`. Its ``landmarks`` (T, P, 2 or 3), fractions of the frame, NaN
            where there is no face, replace MediaPipe's and those beside the video.
        threads: decode on several cores.

    Yields:
        Clips of at most 11.2 s, in the order in which their segments end.

    Raises:
        ValueError: when it cannot be decoded at all, or lacks video or audio.
        OSError: when it cannot be opened.
    """
    if source.problem:
        raise ValueError(source.problem)
    measure = load_hook(provider) if provider else None
    read = _image_clips(source, outcome) if source.layout == "pictures" else _video_clips(source, outcome, threads)
    for track, clip, landmarks in read:
        if is_silent(clip.waveform):
            outcome.drop(track.start, "silent")
            continue
        features = _provided(measure, clip, provider or "") if measure else {}
        face_clip = _with_mesh(track, clip, features.pop("landmarks", landmarks), outcome)
        if face_clip is not None:
            face_clip.features.update(features)
            yield face_clip


def _video_clips(
    source: Source, outcome: Outcome, threads: bool
) -> Iterator[tuple[_Track, Clip, NDArray[np.float32] | None]]:
    sidecar = read_sidecar(source.path)
    facts = read_facts(source.path, audio=not source.audio)
    outcome.facts = facts._asdict()
    with open_media(source.path) as container, open_media(source.audio or source.path) as audible:
        timed = stream_frames(container, threads=threads, short_side=_SHORT_SIDE)
        audio = AudioReader(_until_damage(stream_audio(audible, 0.0 if source.audio else facts.zero), outcome))
        shrunk = min(1.0, _SHORT_SIDE / min(facts.width, facts.height))
        runs = _Runs(_until_damage(timed, outcome))

        def find_given(_frame: Frame, tick: int) -> Boxes:
            assert sidecar is not None
            return sidecar.boxes_of(runs.numbers[tick]) * shrunk

        for track in _tracks(runs, find_given if sidecar else shared_finder(), outcome):
            start, stop = track.start * SAMPLES_PER_FRAME, (track.start + len(track.crops)) * SAMPLES_PER_FRAME
            waveform = audio.read(start, stop)
            frames = waveform.size // SAMPLES_PER_FRAME  # fewer where the audio ends before the video
            track.squares = [square / shrunk for square in track.squares]
            if frames < SHORTEST_TRACK:
                outcome.drop(track.start, f"{frames} of {len(track.crops)} frames have audio")
                continue
            for part in (track.crops, track.squares, track.numbers):
                del part[frames:]
            landmarks = sidecar.landmarks_in_crops(track.numbers, np.stack(track.squares)) if sidecar else None
            yield track, Clip(np.stack(track.crops), waveform[: frames * SAMPLES_PER_FRAME]), landmarks


def _until_damage(stream: Iterator[Any], outcome: Outcome) -> Iterator[Any]:
    """Items before the damage of a damaged or truncated file."""
    import av

    try:
        yield from stream
    except (av.FFmpegError, ValueError) as error:
        outcome.problem = f"damaged, used up to there ({error})"


class _Runs:
    """Frames cut into runs without gaps and of one size, as the tracker needs them."""

    def __init__(self, timed: Iterator[TimedFrame]) -> None:
        self._timed = timed
        self._next = next(timed, None)
        self.numbers: dict[int, int] = {}  # frame number of the file by tick

    def __iter__(self) -> Iterator[tuple[int, Iterator[Frame]]]:
        """First tick and frames of each run; a run must be consumed before the next."""
        while self._next is not None:
            yield self._next.tick, self._run(self._next)

    def _run(self, first: TimedFrame) -> Iterator[Frame]:
        following: TimedFrame | None = first
        tick = first.tick
        while following is not None and following.tick == tick and following.frame.shape == first.frame.shape:
            self.numbers[tick] = following.number
            if len(self.numbers) > 4 * CLIP_FRAMES:  # tracks lag behind by a few seconds at most
                self.numbers = {at: number for at, number in self.numbers.items() if at > tick - 2 * CLIP_FRAMES}
            yield following.frame
            following = next(self._timed, None)
            tick += 1
        self._next = following


def _tracks(runs: _Runs, finder: FaceFinder, outcome: Outcome) -> Iterator[_Track]:
    """Tracks, cut into clips; a gap in the video, or a change of its size, ends them all."""
    for base, frames in runs:
        active: dict[int, _Track] = {}
        for event in track_faces(frames, _from_tick(base, finder)):
            if isinstance(event, TrackPiece):
                track = active.setdefault(event.track, _Track(event.track, base + event.start))
                track.crops += list(event.crops)
                track.squares += list(event.squares)
                track.numbers += [runs.numbers[base + event.start + index] for index in range(len(event.crops))]
                while len(track.crops) >= CLIP_FRAMES + SHORTEST_TRACK:
                    yield _cut(track)
            else:
                ended = active.pop(event.track, None)
                if ended is not None:
                    yield ended
                if event.dropped:
                    outcome.drop(base + event.start, event.dropped)


def _from_tick(base: int, finder: FaceFinder) -> FaceFinder:
    """The finder for a run that begins at a tick: the tracker counts frames from 0 in every run."""
    return lambda frame, index: finder(frame, base + index)


def _cut(track: _Track) -> _Track:
    """Remove a clip from the beginning of a track."""
    parts = (part[:CLIP_FRAMES] for part in (track.crops, track.squares, track.numbers))
    clip = _Track(track.number, track.start, *parts)  # type: ignore[arg-type]
    for part in (track.crops, track.squares, track.numbers):
        del part[:CLIP_FRAMES]
    track.start += CLIP_FRAMES
    return clip


def _image_clips(source: Source, outcome: Outcome) -> Iterator[tuple[_Track, Clip, None]]:
    """Wav2Lip's preprocessed folders: N.jpg is the crop of frame N at 25 fps; frames without a face are missing."""
    named = ((NUMBERED_IMAGE.fullmatch(name), name) for name in os.listdir(source.path))
    files = {int(match[1]): name for match, name in named if match}
    with open_media(source.audio) as audible:
        audio = AudioReader(_until_damage(stream_audio(audible, 0.0), outcome))
        for first, last in _runs_of(sorted(files)):
            for start in range(first, last, CLIP_FRAMES):
                stop = min(start + CLIP_FRAMES, last)
                waveform = audio.read(start * SAMPLES_PER_FRAME, stop * SAMPLES_PER_FRAME)
                stop = start + waveform.size // SAMPLES_PER_FRAME
                if stop - start < SHORTEST_TRACK:
                    outcome.drop(start, f"{stop - start} consecutive frames with audio, expected {SHORTEST_TRACK}")
                    continue
                frames = np.stack([_read_image(Path(source.path, files[number])) for number in range(start, stop)])
                clip = Clip(frames, waveform[: len(frames) * SAMPLES_PER_FRAME])
                whole = np.array([CROP_SIZE / 2, CROP_SIZE / 2, CROP_SIZE], np.float32)
                yield _Track(0, start, squares=[whole] * len(frames)), clip, None


def _runs_of(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) of each run of consecutive numbers."""
    first = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[first], numbers[index - 1] + 1
            first = index


def _read_image(path: Path) -> Frame:
    with open_media(path) as container:
        frame = next(container.decode(video_stream(container)))
        return np.asarray(frame.to_ndarray(format="rgb24", width=CROP_SIZE, height=CROP_SIZE), np.uint8)


def _with_mesh(track: _Track, clip: Clip, landmarks: NDArray[np.float32] | None, outcome: Outcome) -> FaceClip | None:
    if landmarks is None:
        landmarks = face_mesh(clip.frames, depth=True)
    found = np.isfinite(landmarks).all((1, 2)).mean()
    if found < FEWEST_FACES:
        outcome.drop(track.start, f"landmarks found in {found:.0%} of the frames, expected {FEWEST_FACES:.0%}")
        return None
    squares = np.stack(track.squares)
    half = squares[:, 2:] / 2
    boxes = np.concatenate([squares[:, :2] - half, squares[:, :2] + half], 1).astype(np.float32)
    facts = {
        "track": track.number,
        "start": round(track.start / FPS, 2),
        "frames": len(clip.frames),
        "crop_pixels": round(float(np.median(squares[:, 2])), 1),
        "landmarks_found": round(float(found), 3),
    }
    features: dict[str, NDArray[Any]] = {"boxes": boxes}
    if landmarks.shape[1:] in _MESH_SHAPES:
        features["mesh"] = landmarks[:, :MESH_POINTS].astype(np.float16)
    return FaceClip(facts, clip, features)


def _provided(measure: Callable[..., Any], clip: Clip, name: str) -> dict[str, NDArray[Any]]:
    features = {key: np.ascontiguousarray(value) for key, value in measure(clip.frames, clip.waveform).items()}
    for key, value in features.items():
        if len(value) != len(clip.frames):
            raise ValueError(f"{name}: expected {len(clip.frames)} rows of {key}, got {value.shape}")
        if key == "landmarks" and (value.ndim != 3 or value.shape[2] not in (2, 3)):
            raise ValueError(f"{name}: expected landmarks ({len(value)}, P, 2 or 3), got {value.shape}")
    return features
