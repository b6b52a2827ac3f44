"""Score whole videos as found: every face against the sound, in constant memory.

Three stages run at a time, each a little ahead of the next: decoding, faces, network. A frame is embedded once; of a
window only its scores against the neighbouring audio are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import offset_matrix
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.representations.hubert_encoder import SEGMENT
from unisync_loss.utils.prefetch import prefetch
from unisync_loss.video.decoding import AudioReader, TimedFrame, open_media, read_facts, stream_audio, stream_frames
from unisync_loss.video.extraction import check_provided, visual_of_mesh
from unisync_loss.video.face_detection import FaceFinder, Frame, MediaPipeFinder
from unisync_loss.video.face_mesh import MeshFinder, has_face
from unisync_loss.video.face_tracking import CROP_SIZE, SHORTEST_TRACK, TrackEnd, TrackPiece, track_faces
from unisync_loss.video.voicing import NOISE_FLOOR, window_levels

_SHORT_SIDE = 1080  # pixels; larger pictures are shrunk, experts see faces of 100
_BATCH = 64  # frames of a track that are embedded at a time
_CHUNK = SEGMENT // 2  # windows of sound embedded at a time: HuBERT's stretch, a whole number of mel steps
MOST_FACES = 4  # that are drawn
_STRIP = 48  # mouths kept for the film strip, up to twice as many while they come
_MOUTH = (slice(80, 168), slice(52, 140))  # rows and columns of a crop

Array = NDArray[np.float32]
OnProgress = Callable[[float, float], None]


@dataclass
class TrackScores:
    """A face against the sound.

    Attributes:
        start: first frame of the video.
        table: (W, 31) score of each visual window against the audio window k - 15 later; NaN where there is none.
        level: (W,) level of the sound of each window, root mean square of full scale 1.
        mouths: frame of the video and (88, 88, 3) picture, evenly spread.
    """

    start: int
    table: Array
    level: Array
    mouths: list[tuple[int, Frame]]


class VideoScores(NamedTuple):
    """All faces of a video.

    Attributes:
        tracks: in order of appearance.
        dropped: why other faces were not scored.
        seconds: length as decoded.
        notes: what a reader of the scores should know.
    """

    tracks: list[TrackScores]
    dropped: list[str]
    seconds: float
    notes: list[str]


def score_video(
    path: str | os.PathLike[str],
    expert: UniSyncExpert,
    *,
    finder: FaceFinder | None = None,
    on_progress: OnProgress | None = None,
) -> VideoScores:
    """Find, follow and score every face of a video.

    Args:
        path: any file that FFmpeg reads.
        expert: of any pair, in eval mode; what it looks at is made from the face's crops.
        finder: finds the faces of a frame; default MediaPipe.
        on_progress: takes the seconds done and the seconds in all.

    Returns:
        The scores; at least one track.

    Raises:
        ValueError: for a file that cannot be decoded or lacks pictures or sound, a video without a face for at least
            1.2 s, silence, or an expert whose representation cannot be made from video.
        FileNotFoundError: when there is no such file.
        ImportError: without PyAV or MediaPipe.
    """
    check_provided(expert.config)
    facts = read_facts(path)
    frames = 0

    def watched(pictures: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        nonlocal frames
        for picture in pictures:
            frames = picture.tick + 1
            if on_progress:
                on_progress(frames / FPS, facts.seconds)
            yield picture

    tracks: dict[int, _Track] = {}
    dropped: list[str] = []
    with open_media(path) as pictures, open_media(path) as sounds, torch.inference_mode():
        hearing = _Hearing(expert, AudioReader(stream_audio(sounds, facts.zero)))
        shown = watched(stream_frames(pictures, short_side=_SHORT_SIDE))
        with prefetch(shown) as decoded, prefetch(_follow(decoded, finder or MediaPipeFinder())) as events:
            for event in events:
                if isinstance(event, TrackPiece):
                    if event.track not in tracks:
                        tracks[event.track] = _Track(event.start, expert)
                    tracks[event.track].push(event.crops, hearing)
                elif event.dropped:
                    dropped.append(event.dropped)
                elif not tracks[event.track].finish(hearing):
                    dropped.append("a face whose landmarks could not be found")
                    del tracks[event.track]
                else:
                    _forget_mouths(tracks.values())
        loudest = hearing.loudest(frames)
    seconds = frames / FPS
    _refuse_unscorable(path, frames, loudest, bool(tracks), dropped)
    cut = seconds < 0.95 * facts.seconds - 0.5
    notes = [f"only {seconds:.1f} of {facts.seconds:.1f} s could be decoded"] if cut else []
    return VideoScores([track.scores() for track in tracks.values()], dropped, seconds, notes)


def _forget_mouths(tracks: Iterable[_Track]) -> None:
    """Keep the pictures of what is drawn only: a film of two hours may have a thousand tracks."""
    heard = [track for track in tracks if track.heard]
    for track in heard[MOST_FACES:]:
        track.mouths = []


def _refuse_unscorable(
    path: str | os.PathLike[str], frames: int, loudest: float, faces: bool, dropped: list[str]
) -> None:
    shortest = f"{SHORTEST_TRACK / FPS:g} s"
    if frames < SHORTEST_TRACK:
        raise ValueError(f"{path}: expected at least {shortest} of video, got {frames / FPS:g} s")
    if loudest < NOISE_FLOOR:
        raise ValueError(f"{path}: expected a voice, the sound is silent")
    if not faces:
        reason = f" ({dropped[0]}{', and others' if len(dropped) > 1 else ''})" if dropped else ""
        raise ValueError(f"{path}: expected a face on show for {shortest}, found none{reason}")


def _follow(pictures: Iterator[TimedFrame], finder: FaceFinder) -> Iterator[TrackPiece | TrackEnd]:
    """Tracks of a whole video; a hole in the pictures ends all tracks."""
    used = 0
    for _, stretch in groupby(enumerate(pictures), key=lambda numbered: numbered[1].tick - numbered[0]):
        shown = (picture for _, picture in stretch)
        first = next(shown)
        frames = (picture.frame for picture in chain([first], shown))
        last = -1
        for event in track_faces(frames, finder):
            last = max(last, event.track)
            yield event._replace(track=used + event.track, start=first.tick + event.start)
        used += last + 1


class _Hearing:
    """Embeddings of the sound, made as they are asked for, the last minute kept."""

    def __init__(self, expert: UniSyncExpert, sound: AudioReader) -> None:
        self.expert, self.sound = expert, sound
        self.margin = expert.audio_input.context_frames
        self.device = next(expert.parameters()).device
        self.chunks: dict[int, tuple[Tensor, Array]] = {}
        self.peak = 0.0

    def windows(self, first: int, last: int) -> tuple[Tensor, NDArray[np.bool_], Array]:
        """Embeddings (n, D) of windows first … last - 1, which of them there are, and their levels (n,)."""
        numbers = np.arange(first, last)
        parts = [self._chunk(chunk) for chunk in range(max(0, first) // _CHUNK, max(0, last - 1) // _CHUNK + 1)]
        embeddings, levels = torch.cat([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        place = numbers - max(0, first) // _CHUNK * _CHUNK
        there = (place >= 0) & (numbers >= 0) & (place < len(embeddings))
        result = embeddings.new_zeros(len(numbers), self.expert.config.embedding)
        result[torch.from_numpy(there)] = embeddings[torch.from_numpy(place[there])]
        return result, there, np.where(there, levels[np.where(there, place, 0)] if len(levels) else 0.0, 0.0)

    def loudest(self, frames: int) -> float:
        """Highest level of the first frames."""
        for chunk in range(max(self.chunks, default=-1) + 1, max(0, frames - WINDOW_FRAMES) // _CHUNK + 1):
            self._chunk(chunk)
        return self.peak

    def _chunk(self, number: int) -> tuple[Tensor, Array]:
        if number not in self.chunks:
            begin = max(0, number * _CHUNK - self.margin)
            end = (number + 1) * _CHUNK + self.margin
            self.chunks[number] = self._embed(begin, end, number * _CHUNK - begin)
            self.chunks.pop(number - 3, None)
        return self.chunks[number]

    def _embed(self, begin: int, end: int, skipped: int) -> tuple[Tensor, Array]:
        sound = self.sound.read(begin * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME)
        frames = sound.size // SAMPLES_PER_FRAME
        if frames - skipped < WINDOW_FRAMES:
            return torch.zeros(0, self.expert.config.embedding), np.zeros(0, np.float32)
        sound = sound[: frames * SAMPLES_PER_FRAME]
        heard = self.expert.encode_audio(torch.from_numpy(sound)[None].to(self.device), frames)[0]
        level = window_levels(sound).astype(np.float32)
        chunk = slice(skipped, skipped + _CHUNK)
        self.peak = max(self.peak, float(level[chunk].max()))
        return heard[chunk].cpu(), level[chunk]


class _Track:
    """A track while it comes."""

    def __init__(self, start: int, expert: UniSyncExpert) -> None:
        self.start, self.expert = start, expert
        self.device = next(expert.parameters()).device
        self.frames = 0
        #: of an expert on anything but colours, what finds the mesh
        self.eyes = None if expert.config.visual == "rgb" else MeshFinder()
        self.waiting: list[Frame | Array] = []  # crops, or the meshes found in them
        self.before: list[Frame | Array] = []  # meshes before those: a face is looked at less its mean of a while
        self.tables: list[Array] = []
        self.levels: list[Array] = []
        self.mouths: list[tuple[int, Frame]] = []
        self.every = 1
        self.found = self.heard = False  # whether there was a face in a window, and whether any has a score

    def push(self, crops: Frame, hearing: _Hearing) -> None:
        for crop in crops:
            if self.frames % self.every == 0:
                self.mouths.append((self.start + self.frames, crop[_MOUTH].copy()))
                if len(self.mouths) >= 2 * _STRIP:
                    self.mouths, self.every = self.mouths[::2], 2 * self.every
            self.frames += 1
        self.waiting.extend(self.eyes(crops) if self.eyes else crops)
        while len(self.waiting) >= _BATCH:
            self.embed(hearing)

    def embed(self, hearing: _Hearing) -> None:
        """Embed up to a batch of waiting frames; the last four stay for the windows that come."""
        if len(self.waiting) < WINDOW_FRAMES:
            return
        batch = [*self.before, *self.waiting[:_BATCH]]
        seen, shown = self._look(np.stack(batch))
        seen, shown = seen[len(self.before) :], shown[len(self.before) :]
        first = self.start + sum(map(len, self.tables))
        heard, there, level = hearing.windows(first - MAX_OFFSET, first + len(seen) + MAX_OFFSET)
        # every window has its neighbours, so that no candidate falls off the end of the matrix
        padded = F.pad(seen, (0, 0, MAX_OFFSET, MAX_OFFSET))
        table = offset_matrix(heard[None], padded[None], MAX_OFFSET)[0, MAX_OFFSET : MAX_OFFSET + len(seen)].numpy()
        known = np.lib.stride_tricks.sliding_window_view(there, 2 * MAX_OFFSET + 1) & shown[:, None]
        self.tables.append(np.where(known, table, np.nan).astype(np.float32))
        self.levels.append(level[MAX_OFFSET : MAX_OFFSET + len(seen)].astype(np.float32))
        self.before = batch[: len(self.before) + len(seen)][-_BATCH:] if self.eyes else []
        self.waiting = self.waiting[len(seen) :]
        self.found, self.heard = self.found or bool(shown.any()), self.heard or bool(known.any())

    def _look(self, batch: NDArray[Any]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Embeddings (W, D) of the windows of crops or meshes (T, …), and which windows have a face in every frame."""
        if self.eyes is None:
            shown = np.ones(len(batch), bool)
            video = rearrange(torch.from_numpy(batch).to(self.device), "t h w c -> 1 t c h w").float() / 255
        else:
            shown = has_face(batch)
            if not shown.any():
                windows = len(batch) - WINDOW_FRAMES + 1
                return torch.zeros(windows, self.expert.config.embedding), np.zeros(windows, bool)
            filled = np.where(shown[:, None, None], batch, batch[shown][0])  # these windows are not counted
            video = visual_of_mesh(self.expert.config, filled, (CROP_SIZE, CROP_SIZE)).to(self.device)
        return (
            self.expert.encode_visual(video, mask=torch.from_numpy(shown)[None].to(self.device))[0].cpu(),
            np.lib.stride_tricks.sliding_window_view(shown, WINDOW_FRAMES).all(1),
        )

    def finish(self, hearing: _Hearing) -> bool:
        """Embed what waits; whether a face was found."""
        self.embed(hearing)
        if self.eyes:
            self.eyes.close()
        return self.found

    def scores(self) -> TrackScores:
        return TrackScores(self.start, np.concatenate(self.tables), np.concatenate(self.levels), self.mouths)
