"""Preparation of videos as a clip store, and reading of clips from stores and folders."""

from unisync_loss.data.clips import ClipEntry, list_clips, load_clip, shift_audio
from unisync_loss.data.preparation import Task, prepare
from unisync_loss.utils.process_pool import run_tasks
from unisync_loss.video.clip import Clip, find_videos, read_clip
from unisync_loss.video.encoding import write_clip

__all__ = [
    "Clip",
    "ClipEntry",
    "Task",
    "find_videos",
    "list_clips",
    "load_clip",
    "prepare",
    "read_clip",
    "run_tasks",
    "shift_audio",
    "write_clip",
]
