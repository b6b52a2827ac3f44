"""Cases by kind: each damages something that it drew from the seed, gives it to the library and returns how it ended.

A kind is a class with ``make`` (the undamaged files, once) and ``run`` (one case). A case ends well with a result, or
with an error of ours that was raised for input. Everything else is a fault.
"""

import csv
import io
import json
import struct

import numpy as np
import torch
from faults.mutations import damage, other_value, pick
from faults.processes import Fault, Kills, Surroundings
from helpers.random_calls import Call, Wrong, raised_by_us
from helpers.small_store import write_feature_store

from tools.synthetic.clip import synthesize_clip
from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import decode_clip, list_clips, list_split
from unisync_loss.data.datasets import speaker_hook
from unisync_loss.data.sidecar import read_sidecar
from unisync_loss.data.store import list_records, read_features, read_record, read_waveform
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert, save_pretrained
from unisync_loss.representations.audio_encoder import read_features as read_audio_features
from unisync_loss.representations.hubert_encoder import HubertEncoder
from unisync_loss.representations.whisper_encoder import WhisperEncoder
from unisync_loss.training.settings import resolve
from unisync_loss.video.clip import Clip, read_audio, read_clip
from unisync_loss.video.encoding import write_clip


def guarded(call, *names):
    """Result of a call, or the reason of an error that is ours.

    Raises:
        Fault: for a raw error, or one that names none of ``names``.
    """
    try:
        return call(), ""
    except (ValueError, FileNotFoundError) as error:
        if not raised_by_us(error):
            raise Fault(f"raw {type(error).__name__}: {str(error)[:200]!r}") from error
        if names and not any(name in str(error) for name in names):
            raise Fault(f"an error that does not name the file: {str(error)[:200]!r}") from error
        return None, str(error)
    except Exception as error:
        raise Fault(f"raw {type(error).__name__}: {str(error)[:200]!r}") from error


def drawn(seed, seconds):
    clip = synthesize_clip(seed, seconds=seconds, speaker_seed=seed)
    return Clip(np.ascontiguousarray(clip.frames[:, ::2, ::2]), clip.waveform)


class Checkpoints:
    """Folders of experts and of audio encoders: headers, bodies and configs."""

    def make(self, folder):
        torch.manual_seed(0)
        config = UniSyncConfig(
            audio="hubert", visual="3dmm", audio_features=4, visual_features=4, embedding=8, audio_layer=1
        )
        save_pretrained(UniSyncExpert(config).eval(), folder / "expert", card="")
        self.make_whisper(folder / "whisper")
        self.make_hubert(folder / "hubert")
        self.loaders = {"expert": load_expert, "whisper": WhisperEncoder.from_pretrained}
        self.loaders["hubert"] = HubertEncoder.from_pretrained
        self.contents = {
            name: {path.name: path.read_bytes() for path in (folder / name).iterdir() if path.suffix != ".md"}
            for name in self.loaders
        }

    def make_whisper(self, folder):
        from transformers import WhisperConfig, WhisperModel

        sizes = {"d_model": 8, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 8}
        decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8, "vocab_size": 9}
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
        WhisperModel(WhisperConfig(**sizes, **decoder, **tokens)).save_pretrained(folder)

    def make_hubert(self, folder):
        from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        more = {"conv_dim": (4,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        HubertModel(HubertConfig(**sizes, **more)).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)

    def run(self, rng, folder):
        name = pick(rng, ["expert", "expert", "expert", "whisper", "whisper", "hubert"])
        files = self.contents[name]
        file = pick(rng, sorted(files))
        changed = self.change(rng, file, files[file])
        copy = folder / name
        copy.mkdir()
        for other, content in {**files, file: changed}.items():
            (copy / other).write_bytes(content)
        loaded, _ = guarded(lambda: self.loaders[name](copy), str(copy))
        if loaded is None:
            return "refused"
        for key, value in loaded.state_dict().items():
            if not value.isfinite().all():
                raise Fault(f"{key} is not finite")
        return "loaded"

    def change(self, rng, file, content):
        way = pick(rng, ["bytes", "values", "values"])
        if file.endswith(".json"):
            return damage(rng, content) if way == "bytes" else dumped(other_value(rng, json.loads(content)))
        if way == "bytes":
            return damage(rng, content)
        length = int.from_bytes(content[:8], "little")
        header = dumped(other_value(rng, json.loads(content[8 : 8 + length])))
        if rng.random() < 0.2:  # the values themselves, under a right header
            body = np.frombuffer(content[8 + length :], np.float32).copy()
            body[int(rng.integers(body.size))] = pick(rng, [np.nan, np.inf, -np.inf])
            return content[: 8 + length] + body.tobytes()
        shown = len(header) if rng.random() < 0.8 else int(rng.integers(2**63))
        return struct.pack("<Q", shown) + header + content[8 + length :]


def dumped(value):
    return json.dumps(value).encode()


class Containers:
    """Drawn clips in five containers, audio files and pictures' sidecars."""

    SUFFIXES = (".mp4", ".mkv", ".avi", ".ts", ".mov")

    def make(self, folder):
        clip = drawn(1, 0.8)
        for suffix in self.SUFFIXES:
            write_clip(folder / f"clip{suffix}", clip.frames, clip.waveform)
        self.contents = {suffix: (folder / f"clip{suffix}").read_bytes() for suffix in self.SUFFIXES}

    def run(self, rng, folder):
        suffix = pick(rng, self.SUFFIXES)
        path = folder / f"clip{pick(rng, [suffix, suffix, suffix, '.mp4', '.wav', '.flac'])}"
        path.write_bytes(damage(rng, self.contents[suffix], self.contents[pick(rng, self.SUFFIXES)]))
        read = pick(rng, [read_clip, read_clip, read_audio])
        result, _ = guarded(lambda: read(path), path.name)
        if result is None:
            return "refused"
        waveform = result if read is read_audio else result.waveform
        if not np.isfinite(waveform).all() or (waveform.size and np.abs(waveform).max() > 1):
            raise Fault(f"a waveform up to {np.abs(waveform).max()}")
        return "read"


class Tables:
    """CSV, YAML, arrays beside videos: what people write by hand or with other programs."""

    def make(self, folder):
        self.folder = folder
        for number in range(3):
            home = folder / "clips" / "drawn" / f"speaker{number}"
            home.mkdir(parents=True)
            (home / "a.mp4").write_bytes(b"not read")
        names = [f"drawn/speaker{number}/a.mp4" for number in range(3)]
        self.tables = {
            "offsets.csv": [["clip", "offset_frames"], *([name, str(number - 1)] for number, name in enumerate(names))],
            "manifest.csv": [["clip", "language"], *([name, "en"] for name in names)],
            "speakers.csv": [["source", "speaker"], *([name, name.split("/")[1]] for name in names)],
        }
        self.settings = {
            "preset": "fast",
            "data": {"folders": ["clips"], "workers": 1},
            "run": {"out": "out", "seed": 1},
            "optimiser": {"learning_rate": 1e-4},
            "recipe": {"steps": 10},
            "expert": {"visual": "landmarks", "audio": "mel"},
        }

    def run(self, rng, folder):
        return pick(rng, [self.run_table, self.run_table, self.run_settings, self.run_array])(rng, folder)

    def run_table(self, rng, folder):
        name = pick(rng, sorted(self.tables))
        text = io.StringIO()
        rows = [list(row) for row in self.tables[name]]
        if rng.random() < 0.5:
            row = pick(rng, rows)
            row[int(rng.integers(len(row)))] = str(pick(rng, ["", "nan", "1e999", "./x", "a;b", "\\", "é", "0", "-0"]))
        csv.writer(text, delimiter=pick(rng, [",", ",", ",", ";", "\t"])).writerows(rows)
        encoding = pick(rng, ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
        content = text.getvalue().encode(encoding)
        content = damage(rng, content) if rng.random() < 0.7 else content
        root = folder / "clips"
        root.symlink_to(self.folder / "clips") if name == "speakers.csv" else copied(self.folder / "clips", root)
        path = folder / name if name == "speakers.csv" else root / name
        path.write_bytes(content)
        read = (lambda: speaker_hook(str(path))) if name == "speakers.csv" else (lambda: list_clips(root))
        return "refused" if guarded(read, name, str(root))[0] is None else "read"

    def run_settings(self, rng, folder):
        import yaml

        path = folder / "config.yaml"
        text = yaml.safe_dump(other_value(rng, self.settings), allow_unicode=True).encode("utf-8", "surrogatepass")
        path.write_bytes(damage(rng, text) if rng.random() < 0.4 else text)
        return "refused" if guarded(lambda: resolve({}, path))[0] is None else "read"

    def run_array(self, rng, folder):
        buffer = io.BytesIO()
        array = np.zeros((30, 3, 2), pick(rng, [np.float32, np.float16, np.int8, np.complex64, "S4", object]))
        np.save(buffer, array, allow_pickle=True)
        name = pick(rng, ["clip.landmarks.npy", "clip.npy"])
        path = folder / name
        path.write_bytes(damage(rng, buffer.getvalue()) if rng.random() < 0.8 else buffer.getvalue())
        (folder / "clip.mp4").write_bytes(b"not read")
        read = (
            (lambda: read_audio_features(path, 4))
            if name == "clip.npy"
            else (lambda: read_sidecar(str(folder / "clip.mp4")))
        )
        return "refused" if guarded(read, name)[0] is None else "read"


def copied(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


class Stores:
    """Stores of `unisync prepare`: their settings, indices and shards."""

    def make(self, folder):
        clip = drawn(2, 0.6)
        frames = np.zeros((len(clip.frames), 192, 192, 3), np.uint8)
        store = write_feature_store(
            folder / "store",
            {"drawn/a/0": Clip(frames, clip.waveform), "drawn/b/1": Clip(frames, clip.waveform)},
            **{"3dmm": lambda rng, count: rng.normal(size=(count, 4)).astype("float32")},
        )
        self.contents = {
            path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()
        }

    def run(self, rng, folder):
        name = pick(rng, [name for name in sorted(self.contents) if not name.endswith(".lock")])
        content = self.contents[name]
        if name.endswith(".tar") or rng.random() < 0.4:
            content = damage(rng, content)
        elif name.endswith(".jsonl"):
            lines = content.splitlines()
            number = int(rng.integers(len(lines)))
            lines[number] = dumped(other_value(rng, json.loads(lines[number])))
            content = b"\n".join(lines)
        else:
            content = dumped(other_value(rng, json.loads(content)))
        for other, kept in {**self.contents, name: content}.items():
            path = folder / "store" / other
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept)
        return self.read(folder / "store")

    def read(self, store):
        records, _ = guarded(lambda: list_records(store), str(store))
        entries, _ = guarded(lambda: list_split(store), str(store))
        ends = {"refused" if records is None or entries is None else "read"}
        for record in records or []:
            for read in (read_record, read_features, lambda record: read_waveform(record, 0, 5)):
                result, _ = guarded(lambda read=read, record=record: read(record))
                ends.add("refused" if result is None else "read")
        for entry in entries or []:
            result, _ = guarded(lambda entry=entry: decode_clip(entry))
            ends.add("refused" if result is None else "read")
        return "refused" if "refused" in ends else "read"


class Tensors:
    """Random calls of the loss on all bundled experts."""

    def make(self, folder):
        pass

    def run(self, rng, folder):
        call = Call(int(rng.integers(2**31)), 0)
        try:
            return call()
        except Wrong as error:
            raise Fault(f"{error}\n    {call}") from error


KINDS = {
    kind.__name__.lower(): kind for kind in (Checkpoints, Containers, Tables, Stores, Tensors, Kills, Surroundings)
}
