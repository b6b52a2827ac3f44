"""Thin bridges to generators, installed as ``unisync_loss.adapters``; each file uses public names only."""
