"""LSE-D and LSE-C, the distances and confidences of SyncNet (2016)."""
