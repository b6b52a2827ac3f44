"""The expert's networks and checkpoints."""
