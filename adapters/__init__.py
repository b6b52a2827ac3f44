"""Adapters to talking-face generators, one module each; installed as ``unisync_loss.adapters``."""
