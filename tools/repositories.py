"""Prepare the repositories of a release on the Hugging Face Hub: every bundled expert and audio encoder.

    python -m tools.repositories OWNER --out FOLDER            # FOLDER/NAME is what OWNER/NAME would hold
    python -m tools.repositories OWNER --out FOLDER --upload   # and uploads them

A repository that is uploaded is printed as ``OWNER/NAME@COMMIT``; ``tools.release --repo --revision`` takes both.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from unisync_loss import list_pretrained
from unisync_loss.models.pretrained import CARD
from unisync_loss.models.publishing import check_repository, portable_card, prepare_repository, push_folder
from unisync_loss.utils.files import BUNDLED

ENCODERS = ("hubert-small", "whisper-base")


def prepare(out: Path) -> list[Path]:
    """Write one folder per expert and encoder.

    Args:
        out: a folder that does not exist yet, or is empty.

    Returns:
        The folders.

    Raises:
        ValueError: for a folder with files.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: expected a new or an empty folder")
    for name in list_pretrained():
        prepare_repository(name, out / name)
    for name in ENCODERS:
        shutil.copytree(BUNDLED / name, out / name)
        card = out / name / CARD
        card.write_text(portable_card(card.read_text(encoding="utf-8")), encoding="utf-8")
    return sorted(path for path in out.iterdir())


def main() -> None:
    """Prepare all repositories, and upload them if that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m tools.repositories", description=__doc__.splitlines()[0])
    parser.add_argument("owner", help="user or organisation on the Hub")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the files")
    parser.add_argument("--upload", action="store_true", help="upload them; the Hub's client must be logged in")
    options = parser.parse_args()
    check_repository(f"{options.owner}/name")
    for folder in prepare(options.out):
        size = sum(path.stat().st_size for path in folder.iterdir())
        repo = f"{options.owner}/{folder.name}"
        print(f"{repo}@{push_folder(folder, repo)}" if options.upload else f"{repo}: {size / 1e6:.1f} MB in {folder}")


if __name__ == "__main__":
    main()
