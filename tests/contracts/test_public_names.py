"""The public interface, and what documents, examples, tools and benchmarks import of the package."""

import ast
import importlib

import pytest
from helpers.paths import ROOT
from helpers.source import ADAPTERS, OUTSIDE, documents, imported, imports, python_blocks

import unisync_loss

FRONT_DOOR = {
    "SyncTerms",
    "UniSyncConfig",
    "UniSyncExpert",
    "UniSyncLoss",
    "__version__",
    "list_pretrained",
    "load_expert",
    "save_pretrained",
}
DOORS = [
    "functional",
    "metrics",
    "representations",
    "lse",
    "data",
    "evaluation",
    "adapters.geneface",
    "adapters.wav2lip",
]
#: rooms without public names that programs may use: units, and helpers for files and progress; training and curation
#: are the subject of benchmarks and have no public Python interface
ROOMS = {
    "benchmarks": {"config", "utils", "training", "curation"},
    "research": {"config", "utils", "training"},
    "tools": {"config", "utils"},
}
#: internal modules that single programs may use, with the reason; this list may only shrink
EXCEPTIONS = {
    "reads music files, which have no video": {
        "benchmarks/doctor_faults.py": "video.audio_decoding video.decoding",
    },
    "runs the original's steps on our face tracks and crops": {
        "benchmarks/lse_speed.py": "lse.crops video.audio_decoding video.clip video.decoding video.face_detection",
    },
    "measures the face mesh and embeds by each tower once for several experts": {
        "benchmarks/segment_length.py": "video.extraction video.face_mesh",
        "benchmarks/tower_embeddings.py": "models.released video.extraction video.face_mesh",
    },
    "times the stages one by one": {
        "benchmarks/prepare_cost.py": "data.datasets data.face_clips data.preparation data.store_writer "
        "video.decoding video.face_detection video.face_tracking",
        "benchmarks/score_speed.py": "evaluation.video_page evaluation.video_scores evaluation.video_summary "
        "video.face_detection",
    },
    "compares the records of a store with their sources": {
        "benchmarks/prepare_sync.py": "data.store",
    },
    "reads the length of a file without decoding it": {
        "benchmarks/shift_study.py": "video.decoding",
    },
    "fits and measures the check for a whole face": {
        "benchmarks/face_check.py": "inputs.face models.mouth_aligner video.face_mesh",
    },
    "makes points in the form of another model from the mesh": {
        "benchmarks/idexp.py": "representations.face_topology video.expressions",
    },
    "refuses options of another type, and a name in place of a network, as the loss does": {
        "adapters/geneface.py": "inputs.batch utils.tensors",
        "adapters/wav2lip.py": "inputs.batch utils.tensors",
    },
    "measures the lips independently of the expert": {
        "benchmarks/teacher_segments.py": "video.face_mesh",
    },
    "writes the files of Wav2Lip's layout": {
        "benchmarks/train_speed.py": "video.encoding",
    },
    "trains audio networks with the features and towers of the library": {
        "research/audio_students/from_whisper.py": "representations.audio_encoder representations.hubert_encoder "
        "representations.whisper_network",
        "research/audio_students/lesson.py": "video.voicing",
        "research/audio_students/speech.py": "data.store video.audio_decoding video.clip video.decoding video.voicing",
        "research/audio_students/students.py": "representations.audio_encoder representations.hubert_encoder "
        "representations.mel",
    },
    "reads stored meshes and audio of clips whose offset is not corrected": {
        "research/lip_zero/closures.py": "evaluation.bootstrap",
        "research/lip_zero/zero.py": "data.clips data.store",
    },
    "makes a file that the package loads": {
        "tools/fit_face_model.py": "video.expressions video.face_mesh",
        "tools/release.py": "models.pretrained models.released",
        "tools/repositories.py": "models.pretrained models.publishing",
        "tools/whisper_encoder.py": "representations.whisper_encoder representations.whisper_network",
    },
}
SCRIPTS = [path for folder in OUTSIDE for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.fixture(scope="module")
def public():
    names = {f"unisync_loss.{name}" for name in unisync_loss.__all__}
    for door in DOORS:
        module = importlib.import_module(f"unisync_loss.{door}")
        names |= {f"unisync_loss.{door}.{name}" for name in module.__all__}
    return names


def relative(path):
    return path.relative_to(ROOT).as_posix()


def ours(names):
    return {name for name in names if name.split(".")[0] == "unisync_loss"}


def module_of(name):
    """The module that an imported name is or belongs to, without the package: `data.store`, `config`."""
    *parents, last = name.split(".")[1:]
    path = ROOT.joinpath("unisync_loss", *parents, last)
    return ".".join([*parents, last] if path.with_suffix(".py").is_file() or path.is_dir() else parents)


def test_the_front_door():
    assert set(unisync_loss.__all__) == FRONT_DOOR


@pytest.mark.parametrize("door", DOORS)
def test_names_exist(door):
    module = importlib.import_module(f"unisync_loss.{door}")
    assert len(module.__all__) == len(set(module.__all__)) > 0
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("path", [path for path in documents() if python_blocks(path)], ids=relative)
def test_documents_use_public_names(path, public):
    for block in python_blocks(path):
        assert ours(imported(ast.parse(block))) - public == set()


@pytest.mark.parametrize("path", [*SCRIPTS, *ADAPTERS], ids=relative)
def test_programs_use_public_names(path, public):
    modules = {module_of(name) for name in ours(imports(path)) - public}
    rooms = ROOMS.get(relative(path).split("/")[0], set())
    internal = {module for module in modules if module.split(".")[0] not in rooms}
    listed = {module for files in EXCEPTIONS.values() for module in files.get(relative(path), "").split()}
    assert internal == listed
