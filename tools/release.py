"""Record a checkpoint as released, in the ``released.json`` beside its folder.

python -m tools.release unisync_loss/weights/mel-rgb [--repo OWNER/NAME --revision COMMIT]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from unisync_loss import load_expert
from unisync_loss.models.pretrained import RELEASED, WEIGHTS
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.hub import COMMIT


def pin(folder: Path, *, repo: str | None = None, revision: str | None = None) -> None:
    """Check a checkpoint and record its config, number of parameters, size and sha256.

    Args:
        folder: the checkpoint; its name is the released name.
        repo: ``owner/name`` where the same files are published; used when the package does not include them.
        revision: full commit of that repository.

    Raises:
        ValueError: for a folder that does not load, or a repository without a full commit.
    """
    if (repo is None) != (revision is None) or not COMMIT.fullmatch(revision or "0" * 40):
        raise ValueError(f"expected a repo with a revision of 40 hex digits, or neither, got {repo!r} and {revision!r}")
    expert = load_expert(folder)
    content = (folder / WEIGHTS).read_bytes()
    entry = {
        "config": asdict(expert.config),
        "parameters": sum(parameter.numel() for parameter in expert.parameters()),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **({} if repo is None else {"repo": repo, "revision": revision}),
    }
    path = folder.parent / RELEASED
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table[folder.name] = entry
    write_atomically(path, json.dumps(dict(sorted(table.items())), indent=2) + "\n")


def main() -> None:
    """Record one checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="checkpoint folder; its name is the released name")
    parser.add_argument("--repo", help="owner/name on the Hugging Face Hub where the same files are published")
    parser.add_argument("--revision", help="full commit of that repository")
    options = parser.parse_args()
    pin(options.folder.resolve(), repo=options.repo, revision=options.revision)


if __name__ == "__main__":
    main()
