"""Fixtures of checkpoints, as for the tests of models."""

from models.conftest import checkpoint, original, tiny_expert  # noqa: F401
