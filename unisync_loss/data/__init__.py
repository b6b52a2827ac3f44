"""Preparation of videos as a clip store, and reading of clips from stores and folders."""

from unisync_loss.data.clips import ClipEntry, list_clips, load_clip, shift_audio, visual_of_clip
from unisync_loss.data.preparation import prepare
from unisync_loss.video.clip import Clip, read_clip
from unisync_loss.video.encoding import write_clip

__all__ = [
    "Clip",
    "ClipEntry",
    "list_clips",
    "load_clip",
    "prepare",
    "read_clip",
    "shift_audio",
    "visual_of_clip",
    "write_clip",
]
