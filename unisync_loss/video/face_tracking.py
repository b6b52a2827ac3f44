"""Face tracks of a video between scene cuts, with the crops that experts are trained on.

Streaming: about thirty frames are held for a video of any length. Needs the ``video`` extra unless the caller passes
a finder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch.nn import functional as F

from unisync_loss.config import FPS
from unisync_loss.video.face_detection import SAME_FACE, Boxes, FaceFinder, Frame, MediaPipeFinder, overlap

CROP_SIZE = 192  # pixels of a crop
#: side of the crop in sides of MediaPipe's box (brows to chin), and its shift upwards in crop sides: measured on the
#: training clips, whose crops are about 1.7 times the whole face
CROP_SCALE, CROP_RISE = 1.85, 0.03
DETECT_EVERY = 5  # frames between detections, 0.2 s; every frame while a face is lost
LONGEST_GAP = 15  # frames without a detection after which a track ends, 0.6 s
SHORTEST_TRACK = 30  # frames, 1.2 s
SMALLEST_FACE = 40  # pixels of the box's side; a smaller one is enlarged to more than 2.5 times its pixels
SCENE_CUT = 20.0  # of 255: mean change of the thumbnail between frames; speech and pans stay below 10
_HALF_KERNEL = 10  # frames on either side over which the crop is smoothed
_SIGMA = 5.0  # frames
_THUMBNAIL = 16, 9, 8  # cells across, cells down, samples of a cell's side


class TrackPiece(NamedTuple):
    """The next crops of a track.

    Attributes:
        track: number of the track, from 0 in order of appearance; dropped tracks are numbered too.
        start: frame of the video that ``crops[0]`` shows; pieces of a track are consecutive.
        crops: (n, 192, 192, 3) uint8 RGB; pixels outside the frame repeat its border.
        squares: (n, 3) centre x, centre y and side of each crop in pixels of the frame.
    """

    track: int
    start: int
    crops: Frame
    squares: Boxes


class TrackEnd(NamedTuple):
    """The end of a track.

    Attributes:
        track: its number.
        start: first frame.
        frames: number of frames.
        dropped: why it was dropped without any piece; empty for a track that was kept.
    """

    track: int
    start: int
    frames: int
    dropped: str


def track_faces(frames: Iterable[Frame], finder: FaceFinder | None = None) -> Iterator[TrackPiece | TrackEnd]:
    """Track every face of a video.

    A track ends at a scene cut, or when its face was not found for 0.6 s. Greedy association by intersection over union
    as in syncnet_python's ``run_pipeline.py``; the crop is smoothed by a Gaussian over ±0.4 s.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, at 25 fps.
        finder: gives the boxes of a frame, whose number counts from 0 here; default MediaPipe.

    Yields:
        Pieces of tracks as soon as these are kept, and the end of every track, including dropped ones (shorter than 30
        frames, or a face below 40 pixels).

    Raises:
        ImportError: without MediaPipe, when no finder is given.
    """
    tracker = _Tracker(finder or MediaPipeFinder())
    for frame in frames:
        yield from tracker.push(frame)
    yield from tracker.finish()


def crop_square(frame: Frame, square: Boxes, size: int = CROP_SIZE) -> Frame:
    """Crop a square at sub-pixel position, without aliasing.

    Args:
        frame: (H, W, 3) uint8.
        square: (3,) centre x, centre y, side in pixels; pixel (0, 0) covers [0, 1).
        size: pixels of the result.

    Returns:
        (size, size, 3) uint8; pixels outside the frame repeat its border.
    """
    x, y, side = (float(value) for value in square)
    first = np.floor([y - side / 2, x - side / 2]).astype(int) - 1
    extent = int(np.ceil(side)) + 3
    spans = [_span(int(start), extent, limit) for start, limit in zip(first, frame.shape[:2], strict=True)]
    (rows, above_below), (columns, sides) = spans
    loose = np.ascontiguousarray(frame[rows, columns])
    if any((*above_below, *sides)):
        loose = np.pad(loose, (above_below, sides, (0, 0)), mode="edge")
    pixels = rearrange(torch.from_numpy(loose), "h w c -> 1 c h w")
    # to about the final size with an anti-aliasing filter, then bilinear
    fine = min(extent, max(size, round(extent * size / side)))
    if fine < extent:
        pixels = F.interpolate(pixels, (fine, fine), mode="bilinear", antialias=True, align_corners=False)
    middle = [float(x - first[1]) / extent * 2 - 1, float(y - first[0]) / extent * 2 - 1]
    theta = torch.tensor([[side / extent, 0, middle[0]], [0, side / extent, middle[1]]])[None]
    grid = F.affine_grid(theta, [1, 3, size, size], align_corners=False)
    cut = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return rearrange(cut.round().byte(), "1 c h w -> h w c").contiguous().numpy()


def _span(first: int, extent: int, limit: int) -> tuple[slice, tuple[int, int]]:
    """Part of ``extent`` pixels from ``first`` within 0 … limit, at least one pixel, and the padding on both sides."""
    low = min(max(first, 0), limit - 1)
    high = max(min(first + extent, limit), low + 1)
    before = min(max(low - first, 0), extent - (high - low))
    return slice(low, high), (before, extent - (high - low) - before)


def thumbnail(frame: Frame) -> Boxes:
    """Mean colours of 16 x 9 cells, (9, 16, 3), from a few pixels of each."""
    across, down, samples = _THUMBNAIL
    rows = np.linspace(0, frame.shape[0] - 1, down * samples).round().astype(int)
    columns = np.linspace(0, frame.shape[1] - 1, across * samples).round().astype(int)
    cells = rearrange(frame[rows][:, columns], "(h i) (w j) c -> h w c (i j)", i=samples, j=samples)
    return cells.mean(-1, dtype=np.float32)


@dataclass
class _Open:
    """An open track: boxes at detections (keys), and crops that wait until it is long enough."""

    number: int
    first: int  # frame of the first detection
    start: int  # first frame of the part under test, later than ``first`` for a face that was too small at first
    next: int  # first frame not yet cropped
    keys: list[tuple[int, Boxes]]
    kept: bool = False
    waiting: list[tuple[Frame, Boxes]] = field(default_factory=list)
    faces: list[float] = field(default_factory=list)  # sizes at detections that were removed

    @property
    def face(self) -> float:
        """Median side of the boxes in pixels."""
        return float(np.median(self.faces + [float((box[2:] - box[:2]).mean()) for _, box in self.keys]))

    def forget(self) -> None:
        """Remove detections that no later crop depends on."""
        needed = self.next - _HALF_KERNEL
        passed = max((index for index, (time, _) in enumerate(self.keys) if time <= needed), default=0)
        if not self.kept:
            self.faces += [float((box[2:] - box[:2]).mean()) for _, box in self.keys[:passed]]
        self.keys = self.keys[passed:]

    def squares(self, first: int, last: int) -> Boxes:
        """Smoothed squares of frames first … last, (n, 3)."""
        times = np.array([time for time, _ in self.keys])
        boxes = np.stack([box for _, box in self.keys])
        sides = (boxes[:, 2:] - boxes[:, :2]).mean(1) * CROP_SCALE
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - np.stack([np.zeros_like(sides), sides * CROP_RISE], 1)
        values = np.concatenate([middle, sides[:, None]], 1)
        wanted = np.arange(first - _HALF_KERNEL, last + _HALF_KERNEL + 1)
        series = np.stack([np.interp(wanted, times, column) for column in values.T], 1)
        kernel = np.exp(-0.5 * (np.arange(-_HALF_KERNEL, _HALF_KERNEL + 1) / _SIGMA) ** 2)
        steady = [np.convolve(column, kernel / kernel.sum(), "valid") for column in series.T]
        return np.stack(steady, 1).astype(np.float32)


class _Tracker:
    def __init__(self, finder: FaceFinder) -> None:
        self.finder = finder
        self.time = -1
        self.held: deque[Frame] = deque()
        self.open: list[_Open] = []
        self.started = 0
        self.last_detection = -DETECT_EVERY
        self.lost = False
        self.thumbnail: Boxes | None = None

    def push(self, frame: Frame) -> Iterator[TrackPiece | TrackEnd]:
        """Take the next frame."""
        coarse = thumbnail(frame)
        cut = self.thumbnail is not None and np.abs(coarse - self.thumbnail).mean() > SCENE_CUT
        self.thumbnail = coarse
        if cut:
            yield from self.finish()
        self.time += 1
        self.held.append(frame)
        if cut or self.lost or self.time - self.last_detection >= DETECT_EVERY:
            yield from self._detect(frame)
        oldest = min((track.next for track in self.open), default=self.time + 1)
        while self.held and self.time - len(self.held) + 1 < oldest:
            self.held.popleft()

    def finish(self) -> Iterator[TrackPiece | TrackEnd]:
        """End all tracks: after the last frame, or the last before a cut."""
        for track in self.open:
            # the face was there at the last detection
            end = self.time if track.keys[-1][0] == self.last_detection else track.keys[-1][0]
            yield from self._end(track, end)
        self.open = []

    def _detect(self, frame: Frame) -> Iterator[TrackPiece | TrackEnd]:
        self.last_detection = self.time
        boxes = np.asarray(self.finder(frame, self.time), np.float32).reshape(-1, 4)
        free = set(range(len(boxes)))
        if self.open and free:
            table = overlap(np.stack([track.keys[-1][1] for track in self.open]), boxes)
            for row, column in zip(*np.unravel_index(np.argsort(-table, axis=None), table.shape), strict=True):
                track = self.open[row]
                if table[row, column] > SAME_FACE and column in free and track.keys[-1][0] < self.time:
                    track.keys.append((self.time, boxes[column]))
                    free.discard(int(column))
        for track in [track for track in self.open if self.time - track.keys[-1][0] > LONGEST_GAP]:
            self.open.remove(track)
            yield from self._end(track, track.keys[-1][0])
        for track in self.open:
            yield from self._advance(track, track.keys[-1][0] - _HALF_KERNEL)
        for index in sorted(free):
            self.open.append(_Open(self.started, self.time, self.time, self.time, [(self.time, boxes[index])]))
            self.started += 1
        self.lost = any(track.keys[-1][0] < self.time for track in self.open)

    def _advance(self, track: _Open, last: int) -> Iterator[TrackPiece]:
        """Crop the frames up to ``last``, and yield the crops once the track is long enough."""
        if last < track.next:
            return
        squares = track.squares(track.next, last)
        offset = self.time - len(self.held) + 1
        crops = [
            (crop_square(self.held[time - offset], square), square)
            for time, square in zip(range(track.next, last + 1), squares, strict=True)
        ]
        track.waiting += crops
        track.next = last + 1
        track.forget()
        if not track.kept and track.next - track.start >= SHORTEST_TRACK:
            track.kept = track.face >= SMALLEST_FACE
            if not track.kept:  # it may come nearer: tested again from here on
                track.start, track.waiting, track.faces = track.next, [], []
        if track.kept:
            ready, positions = zip(*track.waiting, strict=True)
            track.waiting = []
            yield TrackPiece(track.number, last + 1 - len(ready), np.stack(ready), np.stack(positions))

    def _end(self, track: _Open, last: int) -> Iterator[TrackPiece | TrackEnd]:
        yield from self._advance(track, last)
        start = track.start if track.kept else track.first
        frames = last + 1 - start
        dropped = ""
        if not track.kept and track.face < SMALLEST_FACE:
            dropped = f"a face of {track.face:.0f} pixels, expected at least {SMALLEST_FACE}"
        elif not track.kept:
            dropped = f"visible for {frames} frames ({frames / FPS:.1f} s), expected at least {SHORTEST_TRACK}"
        yield TrackEnd(track.number, start, frames, dropped)
