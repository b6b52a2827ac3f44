"""A differentiable lip-sync expert and the loss made of it (UniSync, arXiv 2503.16357)."""

__version__ = "0.1.0"
