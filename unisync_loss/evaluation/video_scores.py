"""Sync scores of every face of a video, in constant memory, and of a clip.

For a video, three stages run at the same time, each a little ahead of the next: decoding, face tracking, network. A
frame is embedded once per expert; only the scores of each window at the 31 offsets are kept, the mean of all experts'.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_STEP, WINDOW_FRAMES
from unisync_loss.data.clips import ClipEntry, load_clip
from unisync_loss.evaluation.embeddings import embed_clip, offset_table, share_audio
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import offset_matrix
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.representations.audio_encoder import AudioEncoder
from unisync_loss.utils.process_pool import iterate
from unisync_loss.video.audio_decoding import AudioReader
from unisync_loss.video.extraction import check_provided, visual_of_mesh
from unisync_loss.video.face_detection import FaceFinder, Frame
from unisync_loss.video.face_mesh import MeshFinder, has_face
from unisync_loss.video.face_tracking import CROP_SIZE, SHORTEST_TRACK, TrackEnd, TrackPiece
from unisync_loss.video.reading import SILENT_END, Opened, read_clip_isolated, read_faces, read_sound
from unisync_loss.video.voicing import NOISE_FLOOR, window_levels

_BATCH = 64  # frames of a track embedded at a time
_CHUNK = AudioEncoder.segment // 2  # audio windows embedded at a time: an encoder's segment, whole steps of mel
MAX_DRAWN_FACES = 4
_STRIP = 48  # mouth crops kept for the film strip, up to twice as many while frames arrive
_MOUTH = (slice(80, 168), slice(52, 140))  # rows and columns of a face crop

Array = NDArray[np.float32]
OnProgress = Callable[[float, float], None]


@dataclass
class TrackScores:
    """Scores of one face against the audio.

    Attributes:
        start: first frame of the video.
        table: (W, 31) score of each visual window against the audio window k - 15 later; NaN where there is none.
        level: (W,) audio level of each window, root mean square of full scale 1.
        mouths: frame number and (88, 88, 3) mouth crop, evenly spread over the track.
    """

    start: int
    table: Array
    level: Array
    mouths: list[tuple[int, Frame]]

    @property
    def has_scores(self) -> bool:
        """Whether any window has audio at any offset."""
        return not bool(np.isnan(self.table).all())


class VideoScores(NamedTuple):
    """All faces of a video.

    Attributes:
        tracks: in order of appearance.
        dropped: reasons for which other faces were not scored.
        seconds: decoded length.
        notes: warnings about the video.
    """

    tracks: list[TrackScores]
    dropped: list[str]
    seconds: float
    notes: list[str]


def score_video(
    path: str | os.PathLike[str],
    experts: Sequence[UniSyncExpert],
    *,
    finder: FaceFinder | None = None,
    audio: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    isolated: bool = False,
) -> VideoScores:
    """Find, track and score every face of a video.

    Args:
        path: any file that FFmpeg reads.
        experts: one or more of any pair, in eval mode; their visual representations are made from the face crops.
        finder: face detector; default MediaPipe.
        audio: file whose sound is taken, which begins with the first frame; default that of the video.
        on_progress: takes the seconds done and the seconds in all.
        isolated: decode and track in another process, so that a file that crashes or blocks FFmpeg or MediaPipe is a
            ValueError, see :func:`unisync_loss.utils.process_pool.iterate_isolated`.

    Returns:
        The scores; at least one track.

    Raises:
        ValueError: for a file that cannot be decoded or lacks video or audio, a video without a face for at least
            1.2 s, silence, an expert whose representation cannot be made from video, or embeddings of several sizes.
        FileNotFoundError: when there is no such file.
        ImportError: without PyAV or MediaPipe.
    """
    _check(experts)
    tracks: dict[int, _TrackScorer] = {}
    dropped: list[str] = []
    frames = 0
    with closing(iterate(read_faces, path, finder, audio, isolated=isolated)) as events, torch.inference_mode():
        opened = next(events).event
        assert isinstance(opened, Opened)
        facts = opened.facts
        source = (path, facts.zero) if audio is None else (audio, None)
        with closing(iterate(read_sound, *source, isolated=isolated)) as blocks:
            sound = AudioReader(blocks)
            windows = _AudioWindows(experts, sound)
            for frames, event in events:
                if on_progress:
                    on_progress(frames / FPS, facts.seconds)
                if isinstance(event, TrackPiece):
                    if event.track not in tracks:
                        tracks[event.track] = _TrackScorer(event.start, experts)
                    tracks[event.track].push(event.crops, windows)
                elif isinstance(event, TrackEnd) and event.dropped:
                    dropped.append(event.dropped)
                elif isinstance(event, TrackEnd) and not tracks[event.track].finish(windows):
                    dropped.append("a face whose landmarks could not be found")
                    del tracks[event.track]
                else:
                    _drop_undrawn_mouths(tracks.values())
            loudest = windows.loudest(frames)
            audible = sound.end(frames * SAMPLES_PER_FRAME) / SAMPLE_RATE
    _refuse_unscorable(path, frames, loudest, bool(tracks), dropped)
    notes = [*opened.notes, *_what_is_missing(frames / FPS, facts.seconds, audible)]
    return VideoScores([track.scores() for track in tracks.values()], dropped, frames / FPS, notes)


def _what_is_missing(seconds: float, expected: float, audible: float) -> Iterator[str]:
    if seconds < 0.95 * expected - 0.5:  # headers round, and count audio after the last frame
        yield f"only {seconds:.1f} of {expected:.1f} s could be decoded"
    if audible < seconds - SILENT_END:
        yield f"the audio ends at {audible:.1f} s: the last {seconds - audible:.1f} s are not scored"


def score_clip(entry: ClipEntry, experts: Sequence[UniSyncExpert], *, isolated: bool = False) -> VideoScores:
    """Score the one face of a clip of a store, as ``unisync eval`` reads it.

    Args:
        entry: of :func:`unisync_loss.data.clips.list_clips`; its offset is corrected.
        experts: one or more of any pair, in eval mode; what the store holds of mesh, coefficients and maps is used.
        isolated: decode in another process, as in :func:`score_video`.

    Returns:
        The scores; one track.

    Raises:
        ValueError: for a clip that cannot be decoded or shows no face where the expert needs one, or an expert whose
            representation is neither stored with the clip nor can be made from video.
        ImportError: without PyAV, or without MediaPipe when the mesh has to be measured.
    """
    clip = read_clip_isolated(load_clip, entry) if isolated else load_clip(entry)
    table = np.mean([offset_table(embed_clip(expert, entry, clip)) for expert in experts], axis=0).astype(np.float32)
    kept = range(0, len(clip.frames), -(-len(clip.frames) // _STRIP))
    mouths = [(number, clip.frames[number][_MOUTH].copy()) for number in kept]
    track = TrackScores(0, table, window_levels(clip.waveform).astype(np.float32), mouths)
    return VideoScores([track], [], len(clip.frames) / FPS, [])


def _check(experts: Sequence[UniSyncExpert]) -> None:
    for expert in experts:
        check_provided(expert.config)
    if len(sizes := {expert.config.embedding for expert in experts}) != 1:
        raise ValueError(f"expected one or more experts with embeddings of one size, got {sorted(sizes)}")


def _drop_undrawn_mouths(tracks: Iterable[_TrackScorer]) -> None:
    """Keep mouth crops of the drawn faces only: a film of two hours may have a thousand tracks."""
    scored = [track for track in tracks if track.has_scores]
    for track in scored[MAX_DRAWN_FACES:]:
        track.mouths = []


def _refuse_unscorable(
    path: str | os.PathLike[str], frames: int, loudest: float, faces: bool, dropped: list[str]
) -> None:
    shortest = f"{SHORTEST_TRACK / FPS:g} s"
    if frames < SHORTEST_TRACK:
        raise ValueError(f"{path}: expected at least {shortest} of video, got {frames / FPS:g} s")
    if loudest < NOISE_FLOOR:
        raise ValueError(f"{path}: expected speech, got silent audio")
    if not faces:
        reason = f" ({dropped[0]}{', and others' if len(dropped) > 1 else ''})" if dropped else ""
        raise ValueError(f"{path}: expected a face visible for {shortest}, found none{reason}")


class _AudioWindows:
    """Audio embeddings of k experts, computed on demand in chunks of which the last three (one minute) are kept."""

    def __init__(self, experts: Sequence[UniSyncExpert], sound: AudioReader) -> None:
        self.experts, self.sound = experts, sound
        self.chunks: dict[int, tuple[Tensor, Array]] = {}
        self.peak = 0.0

    def windows(self, first: int, last: int) -> tuple[Tensor, NDArray[np.bool_], Array]:
        """Embeddings (k, n, D) of windows first … last - 1, which of them exist (n,), and their levels (n,)."""
        numbers = np.arange(first, last)
        chunks = range(max(0, first) // _CHUNK, max(0, last - 1) // _CHUNK + 1)
        parts = [self._chunk(number) for number in chunks]
        embeddings, levels = torch.cat([part[0] for part in parts], 1), np.concatenate([part[1] for part in parts])
        row = numbers - chunks.start * _CHUNK
        exists = (numbers >= 0) & (row < len(levels))
        result = embeddings.new_zeros(len(embeddings), len(numbers), embeddings.shape[2])
        level = np.zeros(len(numbers), levels.dtype)
        # windows before the first frame and after the end of the audio stay 0, marked as missing
        result[:, torch.from_numpy(exists)] = embeddings[:, torch.from_numpy(row[exists])]
        level[exists] = levels[row[exists]]
        return result, exists, level

    def loudest(self, frames: int) -> float:
        """Highest level of the first frames, or one that is no silence."""
        for number in range(max(self.chunks, default=-1) + 1, max(0, frames - WINDOW_FRAMES) // _CHUNK + 1):
            if self.peak < NOISE_FLOOR:  # else the answer is known, and the rest may be hours of a gap
                self._chunk(number)
        return self.peak

    def _chunk(self, number: int) -> tuple[Tensor, Array]:
        if number not in self.chunks:
            self.chunks[number] = self._embed(number * _CHUNK * SAMPLES_PER_FRAME)
            self.chunks.pop(number - 3, None)  # tracks lag behind the newest frame by seconds, not by a minute
        return self.chunks[number]

    def _embed(self, first: int) -> tuple[Tensor, Array]:
        """Embeddings (k, W, D) and levels (W,) of the chunk that begins at sample ``first``."""
        parts: list[tuple[Tensor, Array]] = []
        for index, expert in enumerate(self.experts):
            same = (part for other, part in zip(self.experts[:index], parts, strict=True) if share_audio(expert, other))
            parts.append(next(same, None) or self._embed_by(expert, first))
        level = parts[0][1]
        self.peak = max(self.peak, float(level.max(initial=0)))
        return torch.stack([embedding for embedding, _ in parts]), level

    def _embed_by(self, expert: UniSyncExpert, first: int) -> tuple[Tensor, Array]:
        """Embeddings (W, D) and levels (W,) of the chunk by one expert."""
        config, context = expert.config, expert.audio_input.context
        begin, end = max(0, first - context), first + _CHUNK * SAMPLES_PER_FRAME + context
        samples, before = self.sound.read(begin, end), first - begin
        if samples.size < end - begin:  # at the end of the audio, whole frames
            samples = samples[: before + max(0, samples.size - before) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
        frames = min((samples.size - before) // SAMPLES_PER_FRAME, _CHUNK + WINDOW_FRAMES - 1)
        if frames < WINDOW_FRAMES:
            return torch.zeros(0, config.embedding), np.zeros(0, np.float32)
        features = expert.prepare_audio(torch.from_numpy(samples)[None].to(next(expert.parameters()).device))
        skipped = before // SAMPLES_PER_STEP[config.audio]
        features = features[:, skipped : skipped + math.ceil(frames * config.steps_per_frame)]
        level = window_levels(samples[before : before + frames * SAMPLES_PER_FRAME]).astype(np.float32)
        return expert.encode_prepared_audio(features, frames)[0].cpu(), level


class _TrackScorer:
    """Scores of one track while its frames arrive."""

    def __init__(self, start: int, experts: Sequence[UniSyncExpert]) -> None:
        self.start, self.experts = start, experts
        self.mesh_finder = MeshFinder() if any(expert.visual_input.needs_mesh for expert in experts) else None
        self.crops: list[Frame] = []  # waiting
        self.meshes: list[Array] = []  # found in them, where an expert needs them
        self.context: list[Array] = []  # earlier meshes: landmarks are taken relative to their recent mean
        self.tables: list[Array] = []
        self.levels: list[Array] = []
        self.mouths: list[tuple[int, Frame]] = []
        self.frames, self.every = 0, 1  # so far, and between two mouth crops
        self.has_face = self.has_scores = False  # in any window so far

    def push(self, crops: Frame, audio: _AudioWindows) -> None:
        for crop in crops:
            if self.frames % self.every == 0:
                self.mouths.append((self.start + self.frames, crop[_MOUTH].copy()))
                if len(self.mouths) >= 2 * _STRIP:  # every second one is dropped: evenly spread at any length
                    self.mouths, self.every = self.mouths[::2], 2 * self.every
            self.frames += 1
        self.crops.extend(crops)
        if self.mesh_finder:
            self.meshes.extend(self.mesh_finder(crops))
        while len(self.crops) >= _BATCH:
            self.embed(audio)

    def embed(self, audio: _AudioWindows) -> None:
        """Score up to a batch of waiting frames; the last four stay for the next windows."""
        if len(self.crops) < WINDOW_FRAMES:
            return
        count = min(len(self.crops), _BATCH) - WINDOW_FRAMES + 1
        embedded = [self._embed_visual(expert) for expert in self.experts]
        valid = np.logical_and.reduce([found for _, found in embedded])
        first = self.start + sum(map(len, self.tables))
        embedding, exists, level = audio.windows(first - MAX_OFFSET, first + count + MAX_OFFSET)
        # padded on both sides, so that every window has all its candidates inside the matrix
        padded = F.pad(torch.stack([visual for visual, _ in embedded]), (0, 0, MAX_OFFSET, MAX_OFFSET))
        table = offset_matrix(embedding, padded, MAX_OFFSET)[:, MAX_OFFSET : MAX_OFFSET + count].mean(0).numpy()
        known = np.lib.stride_tricks.sliding_window_view(exists, 2 * MAX_OFFSET + 1) & valid[:, None]
        self.tables.append(np.where(known, table, np.nan).astype(np.float32))
        self.levels.append(level[MAX_OFFSET : MAX_OFFSET + count])
        self.context = [*self.context, *self.meshes[:count]][-_BATCH:]
        self.crops, self.meshes = self.crops[count:], self.meshes[count:]
        self.has_face = self.has_face or bool(valid.any())
        self.has_scores = self.has_scores or bool(known.any())

    def _embed_visual(self, expert: UniSyncExpert) -> tuple[Tensor, NDArray[np.bool_]]:
        """Embeddings (W, D) of a batch of waiting frames, and which windows have a face in every frame (W,)."""
        device = next(expert.parameters()).device
        if not expert.visual_input.needs_mesh:
            crops = np.stack(self.crops[:_BATCH])
            video = rearrange(torch.from_numpy(crops).to(device), "t h w c -> 1 t c h w").float() / 255
            return expert.encode_visual(video)[0].cpu(), np.ones(len(crops) - WINDOW_FRAMES + 1, bool)
        meshes, before = np.stack([*self.context, *self.meshes[:_BATCH]]), len(self.context)
        found = has_face(meshes)
        valid = np.lib.stride_tricks.sliding_window_view(found, WINDOW_FRAMES).all(1)[before:]
        if not found.any():
            return torch.zeros(len(valid), expert.config.embedding), valid
        filled = np.where(found[:, None, None], meshes, meshes[found][0])  # windows with these frames do not count
        video = visual_of_mesh(expert.config, filled, (CROP_SIZE, CROP_SIZE)).to(device)
        embedding = expert.encode_visual(video, mask=torch.from_numpy(found)[None].to(device))
        return embedding[0, before:].cpu(), valid

    def finish(self, audio: _AudioWindows) -> bool:
        """Score the remaining frames; return whether a face was found."""
        self.embed(audio)
        if self.mesh_finder:
            self.mesh_finder.close()
        return self.has_face

    def scores(self) -> TrackScores:
        return TrackScores(self.start, np.concatenate(self.tables), np.concatenate(self.levels), self.mouths)
