"""LSE-D and LSE-C, the lip-sync error distance and confidence of SyncNet (2016)."""

from unisync_loss.lse.crops import squeeze
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.mfcc import compute_mfcc
from unisync_loss.lse.procedures import measure_video
from unisync_loss.lse.syncnet import SyncNet, load_syncnet
from unisync_loss.video.encoding import to_int16

__all__ = [
    "LseMeter",
    "SyncNet",
    "compute_mfcc",
    "load_syncnet",
    "measure_video",
    "squeeze",
    "summarise",
    "to_int16",
]
