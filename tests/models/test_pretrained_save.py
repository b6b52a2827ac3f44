"""Saving of checkpoints, complete or interrupted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import contents

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import CARD, CONFIG, WEIGHTS, load_expert, save_pretrained


class TestSave:
    def test_card(self, tiny_expert: UniSyncExpert, checkpoint: Path) -> None:
        assert "hubert-3dmm" in (checkpoint / CARD).read_text()
        save_pretrained(tiny_expert, checkpoint, card="# mine\n")
        save_pretrained(tiny_expert, checkpoint)
        assert (checkpoint / CARD).read_text() == "# mine\n"

    def test_overwrites_with_another_config(self, checkpoint: Path) -> None:
        other = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=4, embedding=8))
        save_pretrained(other, checkpoint, dtype=torch.bfloat16)
        assert load_expert(checkpoint).config == other.config
        assert sorted(contents(checkpoint)) == [CARD, CONFIG, WEIGHTS]

    def test_same_config_is_one_rename(
        self, tiny_expert: UniSyncExpert, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renamed: list[str] = []
        replace = os.replace

        def record(source: Path, target: Path) -> None:
            renamed.append(Path(target).name)
            replace(source, target)

        monkeypatch.setattr(os, "replace", record)
        save_pretrained(tiny_expert, checkpoint)
        assert renamed == [WEIGHTS]

    def test_refuses_what_would_not_load(self, tiny_expert: UniSyncExpert, checkpoint: Path, tmp_path: Path) -> None:
        large = load_expert(checkpoint)
        next(large.parameters()).data.view(-1)[0] = 1e6
        before = contents(checkpoint)
        with pytest.raises(ValueError, match=r"expected values that are finite in torch.float16"):
            save_pretrained(large, checkpoint, dtype=torch.float16)
        with pytest.raises(ValueError, match=r"dtype: expected a floating-point type, got torch\.int8"):
            save_pretrained(tiny_expert, checkpoint, dtype=torch.int8)
        with pytest.raises(ValueError, match=r"dtype: expected a floating-point type, got 'float16'"):
            save_pretrained(tiny_expert, checkpoint, dtype="float16")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"expert: expected a UniSyncExpert, got str"):
            save_pretrained("mel-rgb", checkpoint)  # type: ignore[arg-type]
        assert contents(checkpoint) == before

    @pytest.mark.parametrize("fail_at", [1, 2, 3])
    @pytest.mark.parametrize("existing", [True, False])
    def test_interrupted_between_renames(
        self,
        tiny_expert: UniSyncExpert,
        checkpoint: Path,
        tmp_path: Path,
        fail_at: int,
        existing: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Weights with the config of another checkpoint must not load; saving once more mends the folder."""
        other = UniSyncExpert(UniSyncConfig(audio="hubert", visual="landmarks", audio_features=4, embedding=8))
        folder, renamed, replace = checkpoint if existing else tmp_path / "new", [], os.replace

        def failing(source: Path, target: Path) -> None:
            renamed.append(Path(target).name)
            if len(renamed) == fail_at:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            with pytest.raises(KeyboardInterrupt):
                save_pretrained(other, folder, card="# other\n")
        assert renamed == [WEIGHTS, CARD, CONFIG][:fail_at]
        with pytest.raises(ValueError, match=r"expected (config\.json|a checkpoint folder)"):
            load_expert(folder)
        save_pretrained(other, folder, card="# other\n")
        assert load_expert(folder).config == other.config
        assert sorted(contents(folder)) == [CARD, CONFIG, WEIGHTS]

    @pytest.mark.parametrize("existing", [True, False])
    def test_full_disk(
        self,
        tiny_expert: UniSyncExpert,
        checkpoint: Path,
        tmp_path: Path,
        existing: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        target = checkpoint if existing else tmp_path / "new"
        before = contents(checkpoint)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_pretrained(tiny_expert, target)
        assert contents(checkpoint) == before
        assert existing or not target.exists()
