"""LSE-D and LSE-C, the lip-sync error distance and confidence of SyncNet (2016)."""

from unisync_loss.lse.crops import resize_frame
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.mfcc import compute_mfcc
from unisync_loss.lse.procedures import measure_video
from unisync_loss.lse.syncnet import SyncNet, SyncNetLayers, load_syncnet
from unisync_loss.video.encoding import to_int16

__all__ = [
    "LseMeter",
    "SyncNet",
    "SyncNetLayers",
    "compute_mfcc",
    "load_syncnet",
    "measure_video",
    "resize_frame",
    "summarise",
    "to_int16",
]
