"""Embeddings of clips by the towers of several experts, in a folder on disk.

A clip is decoded once, its face mesh is computed once, and a tower that experts share embeds it once: an audio
embedding depends on the audio tower only, a visual embedding on the visual tower only. The folder holds one float16
file per tower and clip, by the sha256 of the tower, so that an interrupted run continues where it stopped and a tower
that changed is embedded again. Delete the folder after a change of the code that embeddings depend on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from unisync_loss import UniSyncExpert
from unisync_loss.config import SIDE_FIELDS, WINDOW_FRAMES
from unisync_loss.data import ClipEntry, load_clip
from unisync_loss.evaluation import ClipEmbedding, embed_audio, embed_visual, voiced_windows
from unisync_loss.models.released import Side, tower_state
from unisync_loss.utils.files import atomic_path, fingerprint
from unisync_loss.utils.progress import Progress
from unisync_loss.video.extraction import visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

OTHER: dict[Side, Side] = {"audio": "visual", "visual": "audio"}
#: fields of the config on which no embedding depends
IRRELEVANT = {"margin_same", "margin_cross", "threshold", "temperature", "midpoint"}
FACTS = "clips"  # folder with the voiced windows of every clip, or the reason why it was left out


@dataclass(frozen=True)
class Tower:
    """One side of an expert.

    Attributes:
        side: of the expert.
        sha256: of its weights and of the fields of the config that its embeddings depend on.
    """

    side: Side
    sha256: str


def tower_of(expert: UniSyncExpert, side: Side) -> Tower:
    """Identify a tower by its content."""
    ignored = {OTHER[side], *SIDE_FIELDS[OTHER[side]], *IRRELEVANT}
    fields = {name: value for name, value in asdict(expert.config).items() if name not in ignored}
    return Tower(side, digest(tower_state(expert.state_dict(), side), fields))


def digest(weights: Mapping[str, Tensor], settings: Mapping[str, object]) -> str:
    """Hash of weights and settings."""
    content = save({name: value.contiguous() for name, value in weights.items()})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + content).hexdigest()


def embed_all(
    experts: Mapping[str, UniSyncExpert], entries: Sequence[ClipEntry], cache: Path
) -> dict[str, list[ClipEmbedding]]:
    """Embed every clip that shows a face; the others are skipped for every expert, so that all have the same clips.

    Args:
        experts: in eval mode, by name.
        entries: the clips.
        cache: folder of the embeddings; created if missing.

    Returns:
        Embeddings, rounded to float16, by expert.

    Raises:
        ValueError: for a clip that cannot be read.
    """
    pairs = {name: (tower_of(expert, "audio"), tower_of(expert, "visual")) for name, expert in experts.items()}
    towers = {tower: experts[name] for name, pair in pairs.items() for tower in pair}
    found: dict[str, list[ClipEmbedding]] = {name: [] for name in experts}
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for done, entry in enumerate(entries, 1):
        files = {tower: clip_file(cache, tower.sha256, entry) for tower in towers}
        facts = clip_file(cache, FACTS, entry)
        missing = {tower: expert for tower, expert in towers.items() if not files[tower].is_file()}
        if not facts.is_file() or (missing and left_out(facts) is None):
            embed_missing(entry, missing, files, facts)
        reason = left_out(facts)
        if reason is not None:
            print(f"skipped {entry.name}: {reason}", file=sys.stderr)
            continue
        voiced = load_file(facts)["voiced"].numpy()
        embeddings = {tower: load_file(path)["embedding"].float() for tower, path in files.items()}
        for name, (audio, visual) in pairs.items():
            found[name].append(ClipEmbedding(entry, embeddings[audio], embeddings[visual], voiced))
        progress.update(done)
    return found


def clip_file(cache: Path, folder: str, entry: ClipEntry) -> Path:
    """File of a clip in a folder of the cache, by name, offset and content of the clip."""
    clip = f"{entry.name} {entry.offset} {fingerprint(entry.path)}"
    return cache / folder[:16] / f"{hashlib.sha256(clip.encode()).hexdigest()[:32]}.safetensors"


def left_out(facts: Path) -> str | None:
    """Why a clip was left out; None if it was not."""
    with safe_open(facts, "pt") as file:
        reason: str | None = (file.metadata() or {}).get("left_out")
    return reason


def embed_missing(
    entry: ClipEntry, towers: Mapping[Tower, UniSyncExpert], files: Mapping[Tower, Path], facts: Path
) -> None:
    """Embed a clip by the towers that have not embedded it, unless it shows no face."""
    clip = load_clip(entry)
    mesh = lru_cache(lambda: fill_gaps(face_mesh(clip.frames, depth=True)))  # once, and only where it is needed
    if not facts.is_file():
        try:
            mesh()
        except ValueError as error:
            write(facts, {}, {"left_out": str(error)})
            return
        write(facts, {"voiced": torch.from_numpy(voiced_windows(clip.waveform, len(clip.frames) - WINDOW_FRAMES + 1))})
    for tower, expert in towers.items():
        if tower.side == "audio":
            embedding = embed_audio(expert, clip.waveform, len(clip.frames))
        elif expert.visual_input.needs_mesh:
            embedding = embed_visual(expert, visual_of_mesh(expert.config, mesh(), clip.frames.shape[1:3]))
        else:
            embedding = embed_visual(expert, rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w"))
        write(files[tower], {"embedding": embedding.half()})


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file of the cache completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)
