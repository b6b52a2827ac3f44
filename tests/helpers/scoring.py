"""Scores, embeddings and videos for tests of the evaluation."""

from pathlib import Path

import numpy as np
import torch

from unisync_loss.data.clips import ClipEntry
from unisync_loss.evaluation.embeddings import ClipEmbedding
from unisync_loss.evaluation.video_scores import TrackScores
from unisync_loss.video.encoding import write_clip


def whole(frame, number=0):
    """Face detector: one face that fills the frame."""
    height, width = frame.shape[:2]
    return np.array([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]], np.float32)


def track(probability, start=0, level=0.2, offset=0):
    """Scores of a face: 0.2 but for one offset."""
    table = np.full((len(probability), 31), 0.2, np.float32)
    table[:, 15 + offset] = probability
    return TrackScores(start, table, np.broadcast_to(np.float32(level), len(probability)), [])


def write_shifted(path, clip, shift=0):
    """Write a clip with its audio that many frames late."""
    begin = max(0, -shift) * 640
    waveform = np.pad(clip.waveform, (max(0, shift) * 640, 0))[begin : begin + len(clip.frames) * 640]
    write_clip(path, clip.frames, waveform, crf=10)
    return path


def embedded(windows=60, *, offset=0, noise=0.0, seed=0, corpus="a"):
    """Embedded clip, perfect but for noise; the audio is `offset` frames late."""
    generator = torch.Generator().manual_seed(seed)
    events = torch.randn(windows + 40, 64, generator=generator)
    audio = events[20 - offset : 20 - offset + windows] + noise * torch.randn(windows, 64, generator=generator)
    entry = ClipEntry(Path(f"{seed}.mp4"), f"{corpus}/{seed}/{seed}.mp4", corpus, f"{corpus}/{seed}")
    return ClipEmbedding(entry, audio, events[20 : 20 + windows], np.ones(windows, bool))
