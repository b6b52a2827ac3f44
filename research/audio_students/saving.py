"""Folders that a run writes: the HuBERT, and the expert with the student's audio tower."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save as save_tensors

from research.audio_students.students import HubertStudent, Student
from unisync_loss import UniSyncExpert, save_pretrained
from unisync_loss.utils.files import write_atomically

if TYPE_CHECKING:
    from transformers import HubertModel

HUBERT, EXPERT = "hubert", "expert"


def save_student(student: Student, teacher: UniSyncExpert, out: Path) -> None:
    """Write ``OUT/expert``, the teacher with the student's audio tower in place of its own, and its ``OUT/hubert``.

    The threshold stays the teacher's.

    Args:
        student: trained.
        teacher: its visual tower is copied.
        out: folder of the run.
    """
    config = student.config
    if isinstance(student, HubertStudent):
        digest = save_hubert(student.hubert, out / HUBERT)
        config = replace(config, audio_model=str(out / HUBERT), audio_revision=digest)
    expert = UniSyncExpert(config)
    for part in ("visual_input", "visual_tower"):
        getattr(expert, part).load_state_dict(getattr(teacher, part).state_dict())
    expert.audio_tower.load_state_dict(student.tower.state_dict())
    save_pretrained(expert, out / EXPERT)


def save_hubert(hubert: HubertModel, folder: Path) -> str:
    """Write a folder that ``transformers`` and ``HubertEncoder`` load, weights in float16; returns their sha256."""
    from transformers import Wav2Vec2FeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    config = hubert.config
    config.architectures = ["HubertModel"]
    write_atomically(folder / "config.json", config.to_json_string())
    write_atomically(folder / "preprocessor_config.json", Wav2Vec2FeatureExtractor(do_normalize=True).to_json_string())
    tensors = {_old_name(name): value.half().cpu().contiguous() for name, value in hubert.state_dict().items()}
    content = save_tensors(tensors, {"format": "pt"})
    write_atomically(folder / "model.safetensors", content)
    return hashlib.sha256(content).hexdigest()


def _old_name(key: str) -> str:
    """Key of a weight norm before PyTorch 2.1, which later versions read, too."""
    pattern = r"parametrizations\.weight\.original([01])$"
    return re.sub(pattern, lambda match: ("weight_g", "weight_v")[int(match[1])], key)
