"""The part of a Hub that takes uploads: what the real client asks for between ``create_repo`` and its commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_CREATE, _CHECK = "/api/repos/create", "/api/validate-yaml"
_FILES = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/main")
_LARGE = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_COMMIT = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/main")


@dataclass
class Uploads:
    """Repositories that were created, and what was stored.

    Args:
        private: of each repository that was created.
        stored: content of large files by sha256.
        refused: HTTP status for requests whose path holds the key.
    """

    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def answer(self, url: str, path: str, body: bytes) -> tuple[int, dict[str, object], tuple[str, dict[str, bytes]]]:
        """Status and JSON for a POST, and the repository with its files where it was a commit."""
        nothing: tuple[str, dict[str, bytes]] = ("", {})
        for part, status in self.refused.items():
            if part in path:
                return status, {"error": "refused"}, nothing
        if path == _CREATE:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.private:
                return 409, {"error": "it exists", "url": f"{url}/{repo}"}, nothing
            self.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return 200, {"url": f"{url}/{repo}"}, nothing
        if path == _CHECK:
            return 200, {"errors": [], "warnings": []}, nothing
        if _FILES.fullmatch(path):
            files = [
                {"path": row["path"], "shouldIgnore": False, "oid": None}
                | {"uploadMode": "lfs" if row["path"].endswith(".safetensors") else "regular"}
                for row in json.loads(body)["files"]
            ]
            return 200, {"files": files}, nothing
        if _LARGE.fullmatch(path):
            objects = [
                row | {"actions": {"upload": {"href": f"{url}/store/{row['oid']}"}}}
                for row in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}, nothing
        if match := _COMMIT.fullmatch(path):
            return 200, {}, (match["repo"], self._files([json.loads(line) for line in body.splitlines()]))
        return 404, {"error": f"not a path of this Hub: {path}"}, nothing

    def store(self, path: str, body: bytes) -> int:
        """Status for a PUT of a large file, whose path ends in its sha256."""
        if any(part in path for part in self.refused):
            return 403
        self.stored[path.rpartition("/")[2]] = body
        return 200 if hashlib.sha256(body).hexdigest() == path.rpartition("/")[2] else 400

    def _files(self, lines: list[Mapping[str, dict[str, str]]]) -> dict[str, bytes]:
        found = {}
        for value in (line["value"] for line in lines if line["key"] != "header"):
            large = "oid" in value
            found[value["path"]] = self.stored[value["oid"]] if large else base64.b64decode(value["content"])
        return found
