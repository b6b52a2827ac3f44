"""Stores written from what a test already has, without preparing a video."""

from unisync_loss.data.store_writer import Gatherer, Part, open_store, read_part


def write_store(root, clips, **facts):
    """Write pairs of a clip's facts and its members; ``facts`` are those of the one source."""
    open_store(root, {})
    (root / "parts").mkdir()
    gatherer, part = Gatherer(root), Part(root / "parts", "0")
    for own, members in clips:
        part.add(own, {"safetensors": b"", **members})
    part.finish({"clips": len(clips), **facts})
    gatherer.append(read_part(root / "parts", "0"), root / "parts" / "0.tar")
    gatherer.close()
    return root
