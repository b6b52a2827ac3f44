"""Time of `unisync lse` compared with a reimplementation of the original pipeline, on the same video.

    python benchmarks/lse_speed.py VIDEO --json out/lse_speed.json

`network`: from equal 224 x 224 frames to equal distances. The original keeps the whole clip as float32, stacks every
window separately, runs its networks in batches of 20, and computes distances per window and offset. `pipeline`: from
the video file to equal distances, with face tracks. In addition to the above, the original converts the video to an
MPEG-4 file and that to JPEG files, runs S3FD on every frame at a quarter of its side, detects cuts by hue, saturation
and value as PySceneDetect does, writes the crops to a video file, and that to JPEG files again. S3FD is represented
by its backbone with random weights, run on every tenth frame and counted ten times; its output is not used: the boxes
are ours, detected before the measurement.

CPU time and wall time are reported (the latter suffers on a busy machine); both are timed alternately, with one ratio
per pair. `without_detector` excludes S3FD but not our face detector, which gives a lower bound for any detector.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.lse import LseMeter, SyncNet, SyncNetLayers, compute_mfcc, measure_video, to_int16
from unisync_loss.lse.crops import FaceTrack, crop_boxes, crop_face, find_tracks, keep_tracks
from unisync_loss.video.audio_decoding import stream_audio
from unisync_loss.video.clip import every_frame
from unisync_loss.video.decoding import open_media, read_facts, stream_frames
from unisync_loss.video.face_detection import MediaPipeFinder

BATCH = 20  # the original's
S3FD_EVERY = 10  # frames


def original_distances(layers: SyncNetLayers, frames: Sequence[Tensor], samples: np.ndarray) -> Tensor:
    """(T, 3, 224, 224) RGB and (S,) to distances (W, 31), in the order of operations of the original."""
    video = torch.stack([frame.flip(0) for frame in frames], dim=1)[None].float()
    coefficients = compute_mfcc(torch.from_numpy(samples)).T[None, None].float()
    count = min(video.shape[2], len(samples) // 640) - 5
    visual, audio = [], []
    for start in range(0, count, BATCH):
        windows = range(start, min(count, start + BATCH))
        batch = torch.cat([video[:, :, v : v + 5] for v in windows])
        visual.append(layers.netfclip(layers.netcnnlip(batch).flatten(1)))
        batch = torch.cat([coefficients[..., 4 * v : 4 * v + 20] for v in windows])
        audio.append(layers.netfcaud(layers.netcnnaud(batch).flatten(1)))
    lips, speech = torch.cat(visual), F.pad(torch.cat(audio), (0, 0, 15, 15))
    return torch.stack([F.pairwise_distance(lips[[v]].repeat(31, 1), speech[v : v + 31]) for v in range(count)])


def our_distances(net: SyncNet, frames: Sequence[Tensor], samples: np.ndarray) -> Tensor:
    """The same with this library."""
    meter = LseMeter(net, samples)
    for frame in frames:
        meter.add(frame)
    return meter.distances()


def detector() -> nn.Sequential:
    """Backbone of S3FD: VGG-16 without its classifier, and the added layers; the small heads are omitted."""
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


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video at 25 fps."""
    with open_media(path) as container:
        yield from every_frame(stream_frames(container))


def to_mpeg4(frames: Iterable[np.ndarray], path: Path) -> None:
    """Write an AVI file at the quality that the original requests from ffmpeg."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("mpeg4", rate=25, options={"qmin": "2", "qmax": "2"})
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def to_jpegs(frames: Iterable[np.ndarray], folder: Path) -> list[Path]:
    """Write one file per frame."""
    import cv2

    paths = []
    for index, frame in enumerate(frames):
        paths.append(folder / f"{index:06d}.jpg")
        cv2.imwrite(str(paths[-1]), frame[..., ::-1])
    return paths


def read_jpeg(path: Path) -> np.ndarray:
    """RGB image of a file."""
    import cv2

    return cv2.imread(str(path))[..., ::-1].copy()


def now() -> np.ndarray:
    """CPU time and wall time in seconds."""
    return np.array([time.process_time(), time.perf_counter()])


def original_pipeline(
    layers: SyncNetLayers, s3fd: nn.Module, path: Path, tracks: list[FaceTrack]
) -> tuple[np.ndarray, ...]:
    """Video file to the distances of each track; returns the times of :func:`now`, in total and of S3FD."""
    started, detecting = now(), np.zeros(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        to_mpeg4(read_frames(path), folder / "video.avi")
        images = to_jpegs(read_frames(folder / "video.avi"), folder)
        for index, image in enumerate(images):
            whole = torch.from_numpy(read_jpeg(image)).movedim(-1, 0)[None].float()
            small = F.interpolate(whole, scale_factor=0.25, mode="bilinear")
            if index % S3FD_EVERY == 0:
                before = now()
                s3fd(small)
                detecting += S3FD_EVERY * (now() - before)
        scene_changes(read_frames(folder / "video.avi"))
        samples = sound_of(path)
        for track in tracks:
            span = images[track.start : track.start + len(track.boxes)]
            faces = (crop_face(read_jpeg(one), box) for one, box in zip(span, crop_boxes(track), strict=False))
            to_mpeg4((face.movedim(0, -1).numpy() for face in faces), folder / "track.avi")
            (folder / "track").mkdir(exist_ok=True)
            again = [read_jpeg(one) for one in to_jpegs(read_frames(folder / "track.avi"), folder / "track")]
            sound = samples[track.start * 640 : (track.start + len(track.boxes)) * 640]
            original_distances(layers, [torch.from_numpy(frame).movedim(-1, 0) for frame in again], sound)
    # the detector ran on every tenth frame
    return now() - started + detecting * (1 - 1 / S3FD_EVERY), detecting


def scene_changes(frames: Iterable[np.ndarray]) -> list[float]:
    """Mean change of hue, saturation and value from each frame to the next."""
    import cv2

    changes, last = [], None
    for frame in frames:
        step = max(1, frame.shape[1] // 256)  # the downscaling of PySceneDetect
        now = cv2.cvtColor(np.ascontiguousarray(frame[::step, ::step]), cv2.COLOR_RGB2HSV).astype(np.int32)
        if last is not None:
            changes.append(float(np.abs(now - last).mean()))
        last = now
    return changes


def sound_of(path: Path) -> np.ndarray:
    """Audio of a file, (S,) int16 at 16 kHz."""
    with open_media(path) as container:
        return to_int16(np.concatenate(list(stream_audio(container, read_facts(path).zero))))


def timed(step: Callable[[], object]) -> np.ndarray:
    """Times of one call, as of :func:`now`."""
    started = now()
    step()
    return now() - started


def ratio(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, Any]:
    """Ratio of their time to ours per round, in CPU time and wall time."""
    row: dict[str, Any] = {"rounds": len(ours)}
    for clock, mine, others in zip(("cpu", "wall"), np.transpose(ours), np.transpose(theirs), strict=True):
        pairs = others / mine
        row[clock] = {
            "ratio_median": round(float(np.median(pairs)), 2),
            "ratio_range": [round(float(pairs.min()), 2), round(float(pairs.max()), 2)],
            "ours_s": round(float(np.median(mine)), 2),
            "original_s": round(float(np.median(others)), 2),
        }
    return row


@torch.inference_mode()
def main() -> None:
    """Measure both on one video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="with a face for more than 100 frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    layers, s3fd = SyncNetLayers().eval(), detector()
    net = SyncNet(layers)
    tracks = keep_tracks(find_tracks(read_frames(options.video), MediaPipeFinder()), 100)
    boxes = crop_boxes(tracks[0])
    span = range(tracks[0].start, tracks[0].start + len(tracks[0].boxes))
    frames = [crop_face(frame, next(boxes)) for index, frame in enumerate(read_frames(options.video)) if index in span]
    samples = sound_of(options.video)[span.start * 640 : span.stop * 640]
    ours, theirs = our_distances(net, frames, samples), original_distances(layers, frames, samples)  # also the warm-up
    difference = float(((ours - theirs) / theirs).abs().max())
    assert difference < 1e-4, difference
    network, pipeline = [], []
    for _ in range(options.rounds):
        mine = timed(lambda: our_distances(net, frames, samples))
        network.append((mine, timed(lambda: original_distances(layers, frames, samples))))
        mine = timed(lambda: measure_video(net, options.video, "syncnet"))
        pipeline.append((mine, *original_pipeline(layers, s3fd, options.video, tracks)))
    mine, total, detecting = zip(*pipeline, strict=True)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": options.threads,
        "video": options.video.name,
        "size": list(next(read_frames(options.video)).shape[:2]),
        "frames": len(frames),
        "largest_relative_difference": difference,
        "network": ratio(*zip(*network, strict=True)),
        "pipeline": ratio(mine, total),
        "without_detector": ratio(mine, np.subtract(total, detecting)),
    }
    for name in ("network", "pipeline", "without_detector"):
        cpu, wall = report[name]["cpu"], report[name]["wall"]
        print(
            f"{name:16} the original's steps take {cpu['ratio_median']} x our CPU time {cpu['ratio_range']}, "
            f"{wall['ratio_median']} x our wall time {wall['ratio_range']}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
