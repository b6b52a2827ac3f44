"""Differentiable lip-sync expert and loss for talking-face generators (UniSync, arXiv 2503.16357)."""

from unisync_loss.config import UniSyncConfig
from unisync_loss.loss import SyncTerms, UniSyncLoss
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert, save_pretrained
from unisync_loss.models.released import list_pretrained

__version__ = "0.1.0"
__all__ = [
    "SyncTerms",
    "UniSyncConfig",
    "UniSyncExpert",
    "UniSyncLoss",
    "__version__",
    "list_pretrained",
    "load_expert",
    "save_pretrained",
]
