"""Checkpoint folders load exactly or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import SMALLEST, Bomb, contents, edit_config, edit_weights, release_one
from safetensors.torch import load_file

from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import CARD, CONFIG, WEIGHTS, load_expert, save_pretrained


class TestFolder:
    def test_round_trip_is_bit_exact(self, tiny_expert: UniSyncExpert, tmp_path: Path) -> None:
        save_pretrained(tiny_expert, tmp_path / "new" / "deep")
        loaded = load_expert(tmp_path / "new" / "deep")
        assert loaded.config == tiny_expert.config
        assert not loaded.training
        for key, value in tiny_expert.state_dict().items():
            got = loaded.state_dict()[key]
            assert got.dtype == value.dtype
            assert torch.equal(got, value), key
        video, audio = torch.randn(2, 7, 4), torch.randn(2, 14, 4)
        assert torch.equal(loaded(video, audio), tiny_expert(video, audio))
        assert sorted(contents(tmp_path / "new" / "deep")) == [CARD, CONFIG, WEIGHTS]

    def test_half_is_stored_and_float32_is_used(self, tiny_expert: UniSyncExpert, checkpoint: Path) -> None:
        stored = load_file(checkpoint / WEIGHTS)
        assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}
        loaded = load_expert(str(checkpoint)).state_dict()
        for key, value in tiny_expert.state_dict().items():
            assert loaded[key].dtype == value.dtype
            torch.testing.assert_close(
                loaded[key], value, rtol=2**-11, atol=2**-24
            )  # half a unit in float16's last place

    def test_random_numbers_are_left_alone(self, checkpoint: Path) -> None:
        before = torch.get_rng_state()
        load_expert(checkpoint)
        assert torch.equal(torch.get_rng_state(), before)

    def test_device(self, checkpoint: Path) -> None:
        assert {value.device.type for value in load_expert(checkpoint, device="meta").parameters()} == {"meta"}

    @pytest.mark.parametrize("wrong", [2.5, "gpu", True, torch.zeros(2)])
    def test_no_device(self, checkpoint: Path, wrong: Any) -> None:
        with pytest.raises(ValueError, match='device: expected a device, such as "cuda", got'):
            load_expert(checkpoint, device=wrong)

    @pytest.mark.parametrize("wrong", [None, 3, torch.zeros(2), ["mel-rgb"]])
    def test_no_name(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="name: expected a name or a path, got"):
            load_expert(wrong)

    def test_default_dtype_does_not_matter(self, checkpoint: Path) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            assert {value.dtype for value in load_expert(checkpoint).parameters()} == {torch.float32}
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize(
        "name", ["nowhere", "not a name", "", "../up", "a/b/c", "owner/name@", "C:\\models\\x", "a" * 9999]
    )
    def test_unknown_name_lists_the_known(self, name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        release_one(checkpoint, monkeypatch)
        with pytest.raises(
            ValueError, match=r"expected a released name \(tiny-one\), an existing folder or owner/name"
        ):
            load_expert(name)

    def test_a_path_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected a checkpoint folder, got no such folder"):
            load_expert(tmp_path / "owner" / "name")

    @pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
    def test_missing_file(self, checkpoint: Path, file: str) -> None:
        (checkpoint / file).unlink()
        with pytest.raises(ValueError, match=f"copy: expected {CONFIG} and {WEIGHTS}, got README.md, "):
            load_expert(checkpoint)

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="got an empty folder"):
            load_expert(tmp_path)

    @pytest.mark.parametrize("file", ["pytorch_model.bin", "expert.pth", "last.ckpt"])
    def test_only_a_pickle(self, checkpoint: Path, tmp_path: Path, file: str) -> None:
        (checkpoint / WEIGHTS).unlink()
        (checkpoint / file).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
        with pytest.raises(ValueError, match=f"{file}; pickles are never loaded, convert"):
            load_expert(checkpoint)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("protocol", [0, 2, 4, 5, None])
    def test_a_pickle_named_safetensors(self, checkpoint: Path, tmp_path: Path, protocol: int | None) -> None:
        bomb = Bomb(tmp_path / "mark")
        if protocol is None:
            torch.save(bomb, checkpoint / WEIGHTS)
        else:
            (checkpoint / WEIGHTS).write_bytes(pickle.dumps(bomb, protocol))
        expected = "pickle under its name" if protocol != 0 else "cannot be read"  # protocol 0 is plain text
        with pytest.raises(ValueError, match=f"{WEIGHTS}: expected .*{expected}"):
            load_expert(checkpoint)
        assert not (tmp_path / "mark").exists()
        pickle.loads(pickle.dumps(bomb))
        assert (tmp_path / "mark").exists()  # the bomb works

    @pytest.mark.parametrize("keep", [0, 7, 100, 20_000, -1])
    def test_truncated(self, checkpoint: Path, keep: int) -> None:
        (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:keep])
        with pytest.raises(
            ValueError, match=f"{WEIGHTS}: expected a whole safetensors file, got (an empty file|one that cannot)"
        ):
            load_expert(checkpoint)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
                "a Git LFS pointer: run `git lfs pull`",
            ),
            (b"\n<!doctype html><html><body>404</body></html>", "a web page"),
            (b"<HTML><body>404</body></html>", "a web page"),
        ],
    )
    def test_another_kind_of_file(self, checkpoint: Path, content: bytes, found: str) -> None:
        (checkpoint / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=f"{WEIGHTS}: expected a whole safetensors file, got {found}"):
            load_expert(checkpoint)

    def test_keys_and_shapes_are_all_named(self, checkpoint: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            keys = [key for key, value in tensors.items() if value.ndim > 1]
            tensors["stranger"] = torch.zeros(3)
            del tensors[keys[0]]
            tensors[keys[1]] = tensors[keys[1]][:1].clone()
            self.keys = keys

        edit_weights(checkpoint, change)
        with pytest.raises(ValueError, match=r"does not fit config\.json") as caught:
            load_expert(checkpoint)
        for part in (
            f"missing {self.keys[0]}",
            "unexpected stranger",
            f"{self.keys[1]}: expected shape (",
            str(checkpoint),
        ):
            assert part in str(caught.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, checkpoint: Path, value: float) -> None:
        edit_weights(
            checkpoint, lambda tensors: next(v for v in tensors.values() if v.is_floating_point()).fill_(value)
        )
        with pytest.raises(ValueError, match="expected finite values, got NaN or infinity"):
            load_expert(checkpoint)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
    def test_wrong_kind(self, checkpoint: Path, dtype: torch.dtype) -> None:
        edit_weights(checkpoint, lambda tensors: tensors.update({key: tensors[key].to(dtype) for key in list(tensors)}))
        with pytest.raises(ValueError, match=f"expected torch.float32, got {dtype}"):
            load_expert(checkpoint)

    def test_many_problems_are_counted(self, checkpoint: Path) -> None:
        edit_weights(checkpoint, lambda tensors: tensors.update({f"x{i}": torch.zeros(1) for i in range(50)}))
        with pytest.raises(ValueError, match="and 44 more"):
            load_expert(checkpoint)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"dropout": 0.1}, "unknown fields dropout"),
            ({"threshold": ...}, "expected every field of the config, got none of threshold"),
            ({"threshold": float("nan")}, "threshold: expected a number"),
            ({"audio": "opus"}, "audio: expected one of mel, hubert"),
            ({"value_range": None}, r"config\.json: value_range: expected \[0\.0, 1\.0\], got None"),
            ({"embedding": 10**12}, "embedding|does not fit|cannot be built"),
            ({"embedding": 10**30}, "embedding|does not fit|cannot be built"),
            ({"visual": "landmarks", "visual_features": 136}, "does not fit config.json"),
        ],
    )
    def test_config_is_exact(self, checkpoint: Path, values: dict[str, Any], message: str) -> None:
        edit_config(checkpoint, **values)
        with pytest.raises(ValueError, match=message) as caught:
            load_expert(checkpoint)
        assert str(checkpoint) in str(caught.value)

    def test_config_of_an_earlier_version(self, tiny_expert: UniSyncExpert, checkpoint: Path) -> None:
        names = {"hubert_model": "audio_model", "hubert_revision": "audio_revision", "hubert_layer": "audio_layer"}
        values = {old: getattr(SMALLEST, new) for old, new in names.items()}
        edit_config(checkpoint, **values, **dict.fromkeys(names.values(), ...))
        assert load_expert(checkpoint).config == tiny_expert.config

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
    def test_config_is_json(self, checkpoint: Path, content: bytes) -> None:
        (checkpoint / CONFIG).write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json: "):
            load_expert(checkpoint)
