"""Data-set checks and audio offset correction."""
