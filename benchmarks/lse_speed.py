"""Our LSE path against the steps of the original pipeline, rebuilt, on the same video, in one run.

    python benchmarks/lse_speed.py VIDEO --json out/lse_speed.json

`network`: the same 224x224 frames to the same distances. The original's way: the whole clip as float32, every window
stacked by itself, its networks layer by layer in batches of 20, distances window by window and offset by offset.
`pipeline`: the video file to the same distances, with face tracks. The original's way, beside the above: every picture
through JPEG, S3FD on a quarter of each side, crops through a video file, and through JPEG once more. S3FD is its trunk
with random weights, timed but not listened to: the boxes are ours, found before the clock starts. Cuts between scenes
are not looked for on either side. Both are timed in turn, A B A B …, on two threads; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.lse import LseMeter
from unisync_loss.lse_faces import FaceTrack, crops, cut, find_boxes, keep_tracks, link_tracks
from unisync_loss.lse_video import measure_video
from unisync_loss.media import read_samples, stream_frames, write_clip
from unisync_loss.mfcc import mfcc
from unisync_loss.syncnet import SyncNet

BATCH = 20  # the original's


def original_distances(net: SyncNet, frames: Sequence[Tensor], samples: np.ndarray) -> Tensor:
    """(T, 3, 224, 224) RGB and (S,) to (W, 31), as the original goes about it."""
    video = torch.stack([frame.flip(0) for frame in frames], dim=1)[None].float()
    sound = mfcc(torch.from_numpy(samples)).T[None, None].float()
    count = min(video.shape[2], len(samples) // 640) - 5
    seen, heard = [], []
    for start in range(0, count, BATCH):
        windows = range(start, min(count, start + BATCH))
        batch = torch.cat([video[:, :, v : v + 5] for v in windows])
        seen.append(net.netfclip(net.netcnnlip(batch).flatten(1)))
        batch = torch.cat([sound[..., 4 * v : 4 * v + 20] for v in windows])
        heard.append(net.netfcaud(net.netcnnaud(batch).flatten(1)))
    lips, voices = torch.cat(seen), F.pad(torch.cat(heard), (0, 0, 15, 15))
    return torch.stack([F.pairwise_distance(lips[[v]].repeat(31, 1), voices[v : v + 31]) for v in range(count)])


def our_distances(net: SyncNet, frames: Sequence[Tensor], samples: np.ndarray) -> Tensor:
    """The same by the library."""
    meter = LseMeter(net, samples)
    for frame in frames:
        meter.add(frame)
    return meter.distances()


def detector() -> nn.Sequential:
    """Trunk of S3FD: VGG-16 without its classifier, and the layers added to it; the small heads are left out."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    for width, kernel, stride, padding in ((1024, 3, 1, 3), (1024, 1, 1, 0), (256, 1, 1, 0), (512, 3, 2, 1)):
        layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


def through_jpeg(frame: np.ndarray) -> np.ndarray:
    """One picture encoded and decoded."""
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.shape[1], frame.shape[0], "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    decoder: Any = av.CodecContext.create("mjpeg", "r")
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    (back, *_) = [one for packet in [*packets, None] for one in decoder.decode(packet)]
    return back.to_ndarray(format="rgb24")


def original_pipeline(net: SyncNet, s3fd: nn.Module, path: Path, tracks: list[FaceTrack]) -> list[Tensor]:
    """Video file to the distances of each track."""
    samples = read_samples(path)
    pictures = [through_jpeg(frame) for frame in stream_frames(path)]
    for picture in pictures:
        s3fd(F.interpolate(torch.from_numpy(picture).movedim(-1, 0)[None].float(), scale_factor=0.25, mode="bilinear"))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for track in tracks:
            span = pictures[track.start : track.start + len(track.boxes)]
            faces = [cut(frame, *plan).movedim(0, -1).numpy() for frame, plan in zip(span, crops(track), strict=False)]
            write_clip(Path(folder) / "track.mp4", np.stack(faces))
            again = [through_jpeg(frame) for frame in stream_frames(Path(folder) / "track.mp4")]
            frames = [torch.from_numpy(frame).movedim(-1, 0) for frame in again]
            sound = samples[track.start * 640 : (track.start + len(track.boxes)) * 640]
            results.append(original_distances(net, frames, sound))
    return results


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Ratio theirs / ours, pair by pair."""

    def timed(step: Callable[[], object]) -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    pairs = np.array([(timed(ours), timed(theirs)) for _ in range(rounds)])
    low, median, high = np.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75])
    return {
        "ratio_median": round(float(median), 2),
        "ratio_quartiles": [round(float(low), 2), round(float(high), 2)],
        "ours_s_median": round(float(np.median(pairs[:, 0])), 2),
        "original_s_median": round(float(np.median(pairs[:, 1])), 2),
        "rounds": rounds,
    }


@torch.inference_mode()
def main() -> None:
    """Time both on one video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="with a face for more than 100 frames")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    net, s3fd = SyncNet(), detector()
    tracks = keep_tracks(link_tracks(find_boxes(options.video)), 100)
    plan = crops(tracks[0])
    span = range(tracks[0].start, tracks[0].start + len(tracks[0].boxes))
    frames = [cut(frame, *next(plan)) for index, frame in enumerate(stream_frames(options.video)) if index in span]
    samples = read_samples(options.video)[span.start * 640 : span.stop * 640]
    ours, theirs = our_distances(net, frames, samples), original_distances(net, frames, samples)  # also the warm-up
    difference = float(((ours - theirs) / theirs).abs().max())
    assert difference < 1e-4, difference
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 2,
        "video": options.video.name,
        "size": list(next(stream_frames(options.video)).shape[:2]),
        "frames": len(frames),
        "largest_relative_difference": difference,
        "network": compare(
            lambda: our_distances(net, frames, samples),
            lambda: original_distances(net, frames, samples),
            options.rounds,
        ),
        "pipeline": compare(
            lambda: measure_video(net, options.video, "syncnet"),
            lambda: original_pipeline(net, s3fd, options.video, tracks),
            options.rounds,
        ),
    }
    for name in ("network", "pipeline"):
        row = report[name]
        print(f"{name:8} the original's steps take {row['ratio_median']} x ours {row['ratio_quartiles']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
