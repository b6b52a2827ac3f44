"""Drawn talking faces with synthetic voices: ``python -m tools.synthetic``."""
